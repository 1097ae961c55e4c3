"""What a message and an address are: a bounded, linear, iterative reader of bytes (RFC 5321, RFC 5322).

| module | what it reads |
|---|---|
| `canonical` | what pipe(8) or LMTP gives -> raw with CRLF line ends, the same bytes by every way |
| `message` | raw -> `Message`: the head, and what the other modules make of it, each when it is asked for |
| `headers` | the head -> its fields in order, with duplicates, and where the body starts |
| `words` | a field's bytes -> text for people (RFC 2047) |
| `mailboxes` | From, To, Cc -> addresses and names (RFC 5322 3.4) |
| `message_ids` | Message-ID, In-Reply-To, References (RFC 5322 3.6.4) |
| `content` | Content-Type (RFC 2045 5.1) |
| `received` | Received (RFC 5321 4.4) |
| `comments`, `tokens` | the lexical parts that the structured fields share (RFC 5322 3.2) |
| `recipient` | what Postfix names as the recipient |
| `address` | a route's configured address, with or without the key's place |

Promises: bytes in, values out. Time and memory grow at most in proportion to the input, and past a limit not even so. What
is strange about a message is a flag; what is past a limit stays in raw.
Never: raises for what a message contains; recurses; looks into the body; does I/O; hands a stranger's bytes to the
standard library's `email`.
"""

from __future__ import annotations

__all__: list[str] = []
