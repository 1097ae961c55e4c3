"""The Authentication-Results field: what is written is what can be read again (RFC 8601)."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepost.authentication import Checked, DkimResult, DmarcResult, SpfResult, results_value
from gatepost.authentication.results_field import LONGEST
from gatepost.mail.authentication_results import authentication_results

US = "mx.in.example.com"
ALL = ("spf", "dkim", "dmarc", "arc")


def unfolded(value: str) -> bytes:
    """As a reader of fields has it."""
    return value.replace("\r\n", "").encode("ascii")


def read(checked: Checked) -> list[tuple[str, str, dict[str, str]]]:
    """Method, result and properties, read back."""
    found = authentication_results(unfolded(results_value(checked, US)))
    assert found is not None
    assert found.authserv_id == US
    return [(each.method, each.result, dict(each.properties)) for each in found.results]


def test_every_method_is_told_with_its_properties() -> None:
    """SPF by MAIL FROM or HELO, each signature, DMARC with its policy, ARC."""
    dkim = (
        DkimResult(
            result="fail", domain="example.net", selector="a.b", algorithm="rsa-sha256", start="AB+/cd=1", reason="key revoked"
        ),
        DkimResult(result="pass", domain="example.org", selector="s", algorithm="ed25519-sha256", start="abcdefgh"),
    )
    checked = Checked(
        methods=ALL, spf=SpfResult(result="softfail", domain="example.org"), dkim=dkim, arc="pass",
        dmarc=DmarcResult(result="pass", from_domain="example.org", policy="reject", policy_domain="example.org", reason="dkim"),
    )  # fmt: skip
    assert read(checked) == [
        ("spf", "softfail", {"smtp.mailfrom": "example.org"}),
        ("dkim", "fail", {"reason": "key revoked", "header.d": "example.net", "header.s": "a.b", "header.a": "rsa-sha256", "header.b": "AB+/cd=1"}),
        ("dkim", "pass", {"header.d": "example.org", "header.s": "s", "header.a": "ed25519-sha256", "header.b": "abcdefgh"}),
        ("dmarc", "pass", {"header.from": "example.org", "policy.dmarc": "reject"}),
        ("arc", "pass", {}),
    ]  # fmt: skip


@pytest.mark.parametrize(("checked", "expected"), [
    (Checked(methods=()), []),
    (Checked(methods=ALL), [("spf", "none"), ("dkim", "none"), ("dmarc", "none"), ("arc", "none")]),
    (Checked(methods=("dkim",)), [("dkim", "none")]),
    (Checked(methods=("spf",), spf=SpfResult(result="pass", identity="helo", domain="h.example")), [("spf", "pass")]),
], ids=["nothing asked", "nothing found", "one method", "helo"])  # fmt: skip
def test_what_was_not_asked_is_not_told(checked: Checked, expected: list[tuple[str, str]]) -> None:
    """A method that was not asked for has no result; a message without signature has dkim=none."""
    assert [pair[:2] for pair in read(checked)] == expected


def test_nothing_at_all_is_said_as_the_rfc_says_it() -> None:
    """No method: `none` stands alone."""
    assert results_value(Checked(), US) == f"{US};\r\n\tnone"


def test_helo_is_told_as_helo() -> None:
    """A result for HELO never looks like one for MAIL FROM."""
    checked = Checked(methods=("spf",), spf=SpfResult(result="pass", identity="helo", domain="h.example"))
    assert read(checked) == [("spf", "pass", {"smtp.helo": "h.example"})]


TEXT = st.text(max_size=400)
WORD = st.sampled_from(["pass", "fail", "none", "temperror"])


@given(domain=TEXT, selector=TEXT, start=TEXT, reason=TEXT, word=WORD, count=st.integers(0, 10))
def test_no_text_gets_out_of_its_place(domain: str, selector: str, start: str, reason: str, word: str, count: int) -> None:
    """Whatever stood in the values, the field is ASCII, folded, bounded, and has the results that were put in and no more."""
    dkim = (
        DkimResult(result=word, domain=domain, selector=selector, algorithm="rsa-sha256", start=start, reason=reason),
    ) * count
    checked = Checked(methods=ALL, spf=SpfResult(result=word, domain=domain, reason=reason), dkim=dkim,
                      dmarc=DmarcResult(result=word, from_domain=domain, policy=selector))  # fmt: skip
    value = results_value(checked, US)
    assert re.fullmatch(r"([ -~]*\r\n[ \t])*[ -~]*", value)
    signatures = [("dkim", word)] * count or [("dkim", "none")]
    assert [pair[:2] for pair in read(checked)] == [("spf", word), *signatures, ("dmarc", word), ("arc", "none")]
    assert max(map(len, value.split("\r\n"))) < 998


def test_the_longest_field_is_within_its_bound() -> None:
    """Ten signatures with the longest names that a domain and a selector can have."""
    name = ".".join(["a" * 63] * 3 + ["b" * 61])
    each = DkimResult(
        result="permerror", domain=name, selector=name, algorithm="ed25519-sha256", start="+" * 8, reason="r" * 60
    )
    checked = Checked(methods=ALL, spf=SpfResult(result="temperror", domain=name), dkim=(each,) * 10,
                      dmarc=DmarcResult(result="temperror", from_domain=name, policy="quarantine", reason="r" * 60), arc="temperror")  # fmt: skip
    assert len(results_value(checked, US)) <= LONGEST
    assert len(read(checked)) == 13
