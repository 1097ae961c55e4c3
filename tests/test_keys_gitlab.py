"""GitLab's keys: every form it prints, what is nearly one, and how `kinds` restricts them.

Promises: tokens are made up here, of the right form.
Never: asks a GitLab.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepost.keys import formats, gitlab
from gatepost.keys.formats import Reading

KINDS = formats.FORMATS["gitlab"]
HEX = "0f1e2d3c4b5a69788796a5b4c3d2e1f0"
BASE36 = "0a1b2c3d4e5f6g7h8i9j0klmz"
NEW = f"1-{BASE36}"
TOKEN = "glimt-3xk9f0q2w8e7r6t5y4u1i0o2p"

# id, text, kind, subject
TAKEN = [
    ("reply, 32 hex digits", HEX, "reply", HEX),
    ("reply, hex digits only numbers", "1" * 32, "reply", "1" * 32),
    ("reply, partitioned", NEW, "reply", NEW),
    ("reply, partition of 4", f"zz09-{BASE36}", "reply", f"zz09-{BASE36}"),
    ("reply, with a namespace of 1", f"{NEW}-7", "reply", NEW),
    ("reply, with a namespace of 13", f"{NEW}-3w5e11264sgsf", "reply", NEW),
    ("reply, a namespace that reads issue", f"{NEW}-issue", "reply", NEW),
    ("unsubscribe, 32 hex digits", f"{HEX}-unsubscribe", "unsubscribe", HEX),
    ("unsubscribe, old form", f"{HEX}+unsubscribe", "unsubscribe", HEX),
    ("unsubscribe, partitioned, and not a namespace", f"{NEW}-unsubscribe", "unsubscribe", NEW),
    ("unsubscribe, partitioned with a namespace", f"{NEW}-2s-unsubscribe", "unsubscribe", NEW),
    ("issue", f"garden-tools-20-{TOKEN}-issue", "issue", "20"),
    ("issue, a token of before 16", "garden-tools-20-3xk9f0q2w8e7r6t5y4u1i0o2p-issue", "issue", "20"),
    ("issue, a token with an underscore", "garden-tools-20-author_token12345678-issue", "issue", "20"),
    ("issue, an instance's own token prefix", f"garden-tools-20-acme-{TOKEN}-issue", "issue", "20"),
    ("issue, numbers in the slug", f"2024-plan-7-20-{TOKEN}-issue", "issue", "20"),
    ("issue, dashes together in the slug", f"garden---tools-20-{TOKEN}-issue", "issue", "20"),
    ("issue, a slug of one letter", f"g-1-{TOKEN}-issue", "issue", "1"),
    ("issue, a token that is a number", "garden-tools-20-7777-issue", "issue", "20"),
    ("issue, a token that ends as a note does", "garden-tools-20-x-issue-5-issue", "issue", "20"),
    ("issue, the largest id", f"garden-{2**63 - 1}-{TOKEN}-issue", "issue", str(2**63 - 1)),
    ("issue, a project that is called issue", f"group-issue-20-{TOKEN}-issue", "issue", "20"),
    ("merge request", f"garden-tools-20-{TOKEN}-merge-request", "merge-request", "20"),
    ("service desk", "garden-tools-20-issue-", "service-desk", "20"),
    ("service desk, numbers in the slug", "garden-7-20-issue-", "service-desk", "20"),
    ("note on an issue", f"garden-tools-20-{TOKEN}-issue-34", "note", "20#34"),
]

# id, text
REFUSED = [
    ("empty", ""),
    ("a word", "support"),
    ("one digit short", HEX[:-1]),
    ("one digit more", HEX + "0"),
    ("not a hex digit", HEX[:-1] + "g"),
    ("capitals", HEX.upper()),
    ("a letter that folds to k", f"garden-tools-20-{TOKEN}-issue".replace("k", "\u212a")),
    ("digits of another script", "\u0661" * 32),
    ("32 hex digits with a tail", f"{HEX}-7"),
    ("partition missing", BASE36),
    ("partition empty", f"-{BASE36}"),
    ("partition of 5", f"12345-{BASE36}"),
    ("key of 24", f"1-{BASE36[:-1]}"),
    ("key of 26", f"1-{BASE36}0"),
    ("namespace empty", f"{NEW}-"),
    ("namespace of 14", f"{NEW}-" + 14 * "0"),
    ("two namespaces", f"{NEW}-1-2"),
    ("underscore in the key", f"1-{BASE36[:-1]}_"),
    ("the word alone", "unsubscribe"),
    ("the suffix alone", "-unsubscribe"),
    ("the old suffix alone", "+unsubscribe"),
    ("unsubscribe of no key", "someone-unsubscribe"),
    ("unsubscribe twice", f"{HEX}-unsubscribe-unsubscribe"),
    ("unsubscribe, more behind", f"{HEX}-unsubscribe-1"),
    ("unsubscribe, other delimiter", f"{HEX}.unsubscribe"),
    ("action alone", "issue"),
    ("action alone, with its dash", "-issue"),
    ("action alone, service desk", "-issue-"),
    ("action alone, merge request", "-merge-request"),
    ("no token", "garden-tools-20-issue"),
    ("an empty token", "garden-tools-20--issue"),
    ("a token with a dash at its end", "garden-tools-20-token--issue"),
    ("no id", f"garden-tools-{TOKEN}-issue"),
    ("no slug", f"20-{TOKEN}-issue"),
    ("an empty slug", f"-20-{TOKEN}-issue"),
    ("a slug with a dash in front", f"-garden-20-{TOKEN}-issue"),
    ("a slug with a dot", f"garden.tools-20-{TOKEN}-issue"),
    ("id with a zero in front", f"garden-tools-020-{TOKEN}-issue"),
    ("id zero", f"garden-tools-0-{TOKEN}-issue"),
    ("id of 20 digits", f"garden-{10**19}-{TOKEN}-issue"),
    ("id in another script", f"garden-\u0662\u0660-{TOKEN}-issue"),
    ("more behind the action", f"garden-tools-20-{TOKEN}-issues"),
    ("service desk without its dash", "garden-tools-20-issue"),
    ("service desk with a token", f"garden-tools-20-{TOKEN}-issue-"),
    ("service desk, no slug", "20-issue-"),
    ("service desk, two dashes", "garden-tools-20-issue--"),
    ("note, no number", f"garden-tools-20-{TOKEN}-issue-x"),
    ("note, zero", f"garden-tools-20-{TOKEN}-issue-0"),
    ("note on a merge request", f"garden-tools-20-{TOKEN}-merge-request-34"),
    ("merge request cut off", f"garden-tools-20-{TOKEN}-merge"),
    ("path form of 2018", f"garden/tools+{TOKEN}"),
    ("path form of 2018, service desk", "garden/tools"),
    ("path form of 2018, merge request", f"garden/tools+merge-request+{TOKEN}"),
    ("service desk project key", "garden-tools-helpme"),
    ("white space", f"{HEX} "),
    ("a line end", f"{HEX}\n"),
    ("NUL", f"{HEX}\0"),
    ("255 characters", f"garden-20-{(255 - 16) * 't'}-issue"),
    ("300 characters", 300 * "a"),
    ("300 dashes", 300 * "-"),
]


@pytest.mark.parametrize(("text", "kind", "subject"), [row[1:] for row in TAKEN], ids=[row[0] for row in TAKEN])
def test_every_form_that_gitlab_prints(text: str, kind: str, subject: str) -> None:
    """Each form has its kind, and names what GitLab would look up; there are no options."""
    assert gitlab.read(text) == Reading(kind=kind, subject=subject, raw=text)


@pytest.mark.parametrize("text", [row[1] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_what_is_nearly_a_key_is_none(text: str) -> None:
    """All that is no key has the one answer, whatever kinds are asked for."""
    assert gitlab.read(text) is None
    assert [gitlab.read(text, (kind,)) for kind in KINDS] == len(KINDS) * [None]


@pytest.mark.parametrize(("text", "kind"), [row[1:3] for row in TAKEN], ids=[row[0] for row in TAKEN])
def test_kinds_restrict_what_is_taken(text: str, kind: str) -> None:
    """A route takes the kinds it names; a text is not read as another kind because its own is not taken."""
    assert [each for each in KINDS if gitlab.read(text, (each,)) is not None] == [kind]
    assert gitlab.read(text, tuple(each for each in KINDS if each != kind)) is None
    assert gitlab.read(text, KINDS) == gitlab.read(text)


def test_the_table_has_every_kind() -> None:
    """No kind is without an address of its own above."""
    assert {row[2] for row in TAKEN} == set(KINDS)


def test_the_longest_key_is_taken() -> None:
    """A key of 254 characters is read: GitLab's are longer than the 64 octets of RFC 5321."""
    text = f"{'s' * 200}-20-{'t' * (254 - 200 - 10)}-issue"
    assert len(text) == formats.LONGEST
    assert gitlab.read(text) is not None


@given(
    st.from_regex(r"[a-z0-9](-?[a-z0-9]){0,20}", fullmatch=True),
    st.integers(1, 2**63 - 1),
    st.from_regex(r"[a-z]{1,5}-[a-z0-9]{25}", fullmatch=True),
    st.sampled_from(["issue", "merge-request"]),
)
def test_whatever_the_project_is_called(slug: str, project: int, token: str, action: str) -> None:
    """The id is found behind any slug."""
    text = f"{slug}-{project}-{token}-{action}"
    assert gitlab.read(text) == Reading(kind=action, subject=str(project), raw=text)
