"""Subjects that machines print: vacation replies in many languages, and the bounces of mail programs.

Promises: a subject counts only where it begins with a machine's words and those end as a machine ends them (a colon, a
bracket, a dash, nothing more); an answer to such a mail (`Re:`) or a forwarded one does not begin so.
Never: decides. A person may write any of these: a subject needs a second sign of another kind.

Sources: the texts that the vendors' programs print, per language: Microsoft's for Exchange and Outlook ("Automatic reply"),
IBM's for Notes, and those of the MTAs that the comments name.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

__all__ = ["BOUNCE", "MAYBE_BOUNCE", "VACATION", "begins_with", "folded", "is_bounce", "is_vacation"]

#: Language (ISO 639-1) and the beginnings of a vacation reply's or autoresponder's subject, in lower case.
VACATION: Final[dict[str, tuple[str, ...]]] = {
    "en": ("automatic reply", "auto reply", "auto-reply", "autoreply", "auto: re", "auto response", "auto-response",
           "automatic response", "automated reply", "automated response", "out of office", "out of the office", "out-of-office",
           "out of office reply", "out of office autoreply", "out of office auto-reply", "out of office notification",
           "out of office message", "ooo", "away from the office", "away from my mail", "away from my email", "vacation reply",
           "on vacation", "vacation message", "i am away", "i'm away", "i am out of the office", "i'm out of the office",
           "i am currently out of the office", "i am on vacation", "absence notice"),
    "de": ("automatische antwort", "abwesenheitsnotiz", "abwesenheitsnachricht", "abwesenheitsmeldung", "abwesend",
           "abwesenheitsbenachrichtigung", "automatische abwesenheitsnotiz", "autom. antwort", "außer haus", "nicht im büro",
           "ich bin nicht im büro", "urlaubsbenachrichtigung", "automatische rückantwort", "automatische eingangsbestätigung"),
    "fr": ("réponse automatique", "reponse automatique", "réponse automatique d'absence du bureau", "absence du bureau",
           "absent du bureau", "message d'absence", "absence", "en congé", "en vacances"),
    "es": ("respuesta automática", "respuesta automatica", "fuera de la oficina", "ausente de la oficina", "autorespuesta",
           "mensaje de ausencia", "de vacaciones"),
    "pt": ("resposta automática", "resposta automatica", "fora do escritório", "ausência temporária", "ausente do escritório",
           "mensagem de ausência", "em férias"),
    "it": ("risposta automatica", "fuori sede", "fuori ufficio", "assente dall'ufficio", "risposta non al computer",
           "messaggio di assenza"),
    "nl": ("automatisch antwoord", "automatische reactie", "afwezig", "afwezigheidsbericht", "afwezigheidsmelding",
           "niet op kantoor", "niet aanwezig", "automatische beantwoording"),
    "sv": ("automatiskt svar", "autosvar", "frånvaromeddelande", "frånvaro", "ej på kontoret", "inte på kontoret"),
    "da": ("automatisk svar", "autosvar", "fraværsbesked", "ikke til stede", "ikke på kontoret", "fraværende"),
    "nb": ("automatisk svar", "autosvar", "fraværsmelding", "fraværsassistent", "ikke på kontoret", "ikke tilstede"),
    "fi": ("automaattinen vastaus", "poissaoloviesti", "poissaoloilmoitus", "poissa toimistosta", "en ole paikalla"),
    "is": ("sjálfvirkt svar",),
    "pl": ("automatyczna odpowiedź", "odpowiedź automatyczna", "autoodpowiedź", "poza biurem", "nieobecność"),
    "cs": ("automatická odpověď", "automaticka odpoved", "mimo kancelář", "nepřítomnost"),
    "sk": ("automatická odpoveď", "mimo kancelárie", "neprítomnosť"),
    "sl": ("samodejni odgovor", "samodejno odgovor"),
    "hr": ("automatski odgovor", "izvan ureda"),
    "hu": ("automatikus válasz", "házon kívül", "irodán kívül", "távolléti üzenet"),
    "ro": ("răspuns automat", "raspuns automat", "în afara biroului"),
    "et": ("automaatvastus",),
    "lv": ("automātiskā atbilde", "automātiska atbilde"),
    "lt": ("automatinis atsakymas",),
    "ca": ("resposta automàtica", "fora de l'oficina"),
    "tr": ("otomatik yanıt", "otomatik cevap", "ofis dışında", "ofis dışındayım"),
    "el": ("αυτόματη απάντηση", "εκτός γραφείου"),
    "ru": ("автоматический ответ", "автоответ", "автоответчик", "нет на работе", "в отпуске", "отсутствие на рабочем месте"),
    "uk": ("автоматична відповідь", "автовідповідь"),
    "bg": ("автоматичен отговор",),
    "sr": ("аутоматски одговор", "automatski odgovor"),
    "he": ("תשובה אוטומטית", "מענה אוטומטי", "מחוץ למשרד"),
    "ar": ("رد تلقائي", "الرد التلقائي", "خارج المكتب"),
    "fa": ("پاسخ خودکار",),
    "th": ("ตอบกลับอัตโนมัติ",),
    "vi": ("trả lời tự động", "thư trả lời tự động"),
    "id": ("balasan otomatis",),
    "hi": ("स्वचालित उत्तर", "स्वतः उत्तर"),
    "ja": ("自動応答", "自動返信", "不在通知", "不在"),
    "zh": ("自动答复", "自动回复", "自動回覆", "自動回復", "自動答覆", "不在办公室", "不在辦公室", "外出"),
    "ko": ("자동 회신", "자동 응답", "자동응답", "자동회신", "부재 중", "부재중"),
}  # fmt: skip

#: Beginnings that MTAs and mail services print, and people do not. Behind one that ends in a space anything may follow. Weak
#: alone; with a sender such as postmaster@ they decide.
BOUNCE: Final = (
    # sendmail, Postfix, Exim, qmail, smail, Courier, OpenSMTPD, DragonFly, James
    "returned mail", "undelivered mail returned to sender", "mail delivery failed", "mail delivery failure", "failure notice",
    "delivery status notification", "mail delivery status report", "mail failure", "warning: could not send message",
    "delayed mail", "postmaster notify", "postmaster copy", "notice: mail delivery status", "message delivery has failed",
    "message delivery failure", "message delivery failed", "bounce]", "successful mail delivery report",
    # Exchange, Outlook, in the languages that they print
    "undeliverable", "delivery has failed", "delivery is delayed", "unzustellbar", "nicht zustellbar", "non remis",
    "non distribuable", "no se puede entregar", "no entregado", "onbestelbaar", "non recapitabile", "non recapitato",
    "não é possível entregar", "não entregue", "kan inte levereras", "det går inte att leverera", "kan ikke leveres",
    "ikke leveret", "toimittaminen epäonnistui", "ei voi toimittaa", "nie można dostarczyć", "niedostarczone",
    "nedoručitelné", "nedoručiteľné", "nem kézbesíthető", "kézbesíthetetlen", "nelivrabil", "teslim edilemedi",
    "teslim edilemiyor", "не удается доставить", "недоставленное", "недоставленное сообщение", "недоставлено",
    "не доставлено", "配信不能", "配信できませんでした", "未送达", "无法投递", "无法送达", "無法傳遞", "無法送達",
    "배달되지 않음", "배달할 수 없음", "notification d'état de remise", "notificación de estado de entrega",
    "zustellungsstatus", "unzustellbare nachricht", "échec de la remise", "échec de remise",
    # Domino, GroupWise, MDaemon, MailEnable, IMail, InterScan, Mimecast and services
    "delivery failure", "delivery failed", "delivery notification: delivery has failed", "mail system error - returned mail",
    "non-delivery report", "non-delivery notice", "nondeliverable mail", "nondelivery report",
    "message status - undeliverable", "permanent delivery failure", "postmaster] email delivery failure",
    "email delivery failure", "mail could not be delivered", "message could not be delivered",
    "your message could not be delivered", "sorry, your message could not be delivered", "your mail could not be delivered",
    "message undeliverable", "mail undeliverable", "undeliverable mail", "undeliverable message", "undeliverable e-mail",
    "undeliverable email", "there was an error sending your mail", "complaint about message from ",
    "email feedback report for ", "warning: could not send message for ", "warning: message ", "mail failure ",
    "fail to deliver", "rückläufer", "zustellung fehlgeschlagen", "mail delivery failed: returning message to sender",
    "returning message to sender", "メール配信に失敗", "メール配信エラー", "配信エラー", "系统退信", "退信", "退信通知",
    "系統退信", "來自系統的退信", "来自系统的退信",
)  # fmt: skip

#: Beginnings that only give reason to look inside: people write these as well, and programs go on after them with a text.
MAYBE_BOUNCE: Final = (
    "undeliver", "unable to deliver", "could not deliver", "cannot deliver", "can't deliver", "not deliver", "delivery",
    "deliver", "mail delivery", "mail deliver", "email delivery", "e-mail delivery", "message delivery", "failed", "failure",
    "bounce", "returned", "return", "warning", "notice", "error", "mail system", "user unknown", "unknown user",
    "no such user", "postmaster", "message from", "message", "mail", "your mail", "your message", "your email", "your e-mail",
    "rejected", "refused", "blocked", "delayed", "delay", "sorry", "unzustell", "nicht zugestellt", "zustell", "fehler",
    "échec", "non remise", "retour", "mensagem", "mensaje", "não foi", "problem", "message you sent", "undeliv", "complaint",
    "abuse report", "配信", "退信", "メール", "エラー", "送信", "投递", "nondeliver", "non-deliver", "rejection",
    "couldn't deliver", "invalid", "server",
)  # fmt: skip

_PHRASES: Final = tuple({phrase for phrases in VACATION.values() for phrase in phrases})
#: What may stand behind a machine's words: then the answered subject follows, or nothing.
_ENDS: Final = (
    ":",
    "\N{FULLWIDTH COLON}",
    "(",
    "[",
    "]",
    "-",
    "\N{EN DASH}",
    "\N{EM DASH}",
    "!",
    ".",
    ";",
    "|",
    "/",
    '"',
    "\N{RIGHT BLACK LENTICULAR BRACKET}",
)
_IN_FRONT: Final = " \t\"'*<([\N{LEFT BLACK LENTICULAR BRACKET}"


def folded(subject: str) -> str:
    """A subject as the tables above spell it: one case, single spaces, no marks in front."""
    return " ".join(subject[:300].lower().split()).lstrip(_IN_FRONT)


def begins_with(subject: str, phrases: tuple[str, ...]) -> bool:
    """Does the folded subject begin with one of them, and end there as a machine's words end?"""
    if not subject.startswith(phrases):
        return False
    begun = [phrase for phrase in phrases if subject.startswith(phrase)]
    rests = [subject[len(phrase.rstrip("]")) :].lstrip() for phrase in begun]
    return any(not rest or rest.startswith(_ENDS) for rest in rests) or any(phrase.endswith(" ") for phrase in begun)


def is_vacation(subject: str) -> bool:
    """Does the subject, as decoded for display, begin as a vacation reply's does?"""
    return begins_with(folded(subject), _PHRASES)


def is_bounce(subject: str) -> bool:
    """Does it begin as a bounce's does?"""
    return begins_with(folded(subject), BOUNCE)
