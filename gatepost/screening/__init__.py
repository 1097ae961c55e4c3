"""Findings: observed facts about a message, one module a family; `policy` alone decides what follows from them.

`automatic`: sent by a machine (RFC 3834). `bounces`: delivery reports (RFC 3464, RFC 5321 4.5.5); `bounce_text`, by way of
`opening`, for those that only their text tells. `subjects`: what machines print there. `lists`: passed on by a mailing list
(RFC 2369, 2919). `loops`: the message was here before, or we made it. `spam`: verdicts of filters. `sender`: who sent it, by
`authentication_results` (RFC 8601). `passage`: which fields our own hosts wrote while this message came in.

Promises: pure, linear in the head of the message; each finding carries its evidence and its strength (docs/findings.md).
Never: a look at the body, but for the first screen of what looks like a bounce from outside. What a person quotes or attaches
is not what the person's mail is.
"""
