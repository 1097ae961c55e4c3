"""Findings: observed facts about a message, one module a family; `policy` alone decides what follows from them.

`automatic`: sent by a machine (RFC 3834). `bounces`: delivery reports (RFC 3464, RFC 5321 4.5.5). `loops`: the message was
here before, or we made it. `passage`: which Received fields our own hosts wrote while this message came in.

Promises: pure, linear in the head of the message; each finding carries its evidence.
Never: a look at the body. What a person quotes or attaches is not what the person's mail is.
"""
