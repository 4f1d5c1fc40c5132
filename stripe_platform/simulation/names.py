"""Made-up people, shops and sentences. Mail addresses lie in a domain that is reserved and never resolves."""

from __future__ import annotations

import numpy as np

_FIRST = (
    "Amara Anders Aya Bruno Camille Chloe Daan Elif Emil Fatima Femke Giulia Hana Hugo Ines Ivo Jonas Kenji Lea Liam "
    "Lina Lucas Maja Marta Mateo Mila Nadia Noah Nora Oscar Pablo Paula Rania Rosa Sara Selma Theo Tomas Vera Yuna"
).split()
_LAST = (
    "Abadi Almeida Andersson Bakker Becker Bernard Bianchi Conti Costa Dubois Ferrari Fischer Garcia Haddad Hansen Ito "
    "Jansen Keller Kim Lambert Laurent Lopez Martin Meyer Moreau Muller Nakamura Novak Okafor Olsen Petit Rossi Sato "
    "Schmid Silva Smith Suzuki Vidal Weber Young"
).split()
_SHOP = "Atlas Birch Copper Delta Ember Fjord Garden Harbour Indigo Juniper Lantern Meadow North Olive Quay".split()
_TRADE = "Books Cafe Cycles Foods Fuel Goods Hotel Market Music Optics Pharmacy Shoes Studio Supply Taxi Toys".split()

# By rating: 1 and 2 complain, 3 hesitates, 4 and 5 praise.
_TEXTS = {
    1: ("I was charged twice and nobody answers.", "The parcel never came and the shop is silent.",
        "I do not know this payment at all.", "My card was declined three times for no reason."),
    2: ("Delivery took far longer than promised.", "The refund took weeks.", "Checkout froze, I had to start again.",
        "Support was polite but did not help."),
    3: ("It works, but the receipt came late.", "Fine, though the fees are hard to understand.",
        "Average: nothing broke, nothing shone."),
    4: ("Quick and simple.", "Good shop, small delay.", "Paying by phone was easy."),
    5: ("Everything went smoothly, thank you.", "Fast payment and fast delivery.", "Best checkout I have used."),
}  # fmt: skip


# Other languages: angry, hesitating, content.
_OTHERS = {
    "fr": (("J'ai été débité deux fois.", "Le colis n'est jamais arrivé."), ("Correct, mais le reçu est arrivé tard.",),
           ("Très bien, paiement rapide.", "Tout s'est passé sans problème.")),
    "de": (("Ich wurde zweimal belastet.", "Das Paket kam nie an."), ("Geht so, der Beleg kam spät.",),
           ("Alles bestens, schnelle Zahlung.", "Sehr einfach und schnell.")),
    "es": (("Me cobraron dos veces.", "El paquete no llegó nunca."), ("Bien, pero el recibo llegó tarde.",),
           ("Todo perfecto, pago rápido.", "Muy fácil de usar.")),
    "it": (("Mi hanno addebitato due volte.", "Il pacco non è mai arrivato."),
           ("Va bene, ma la ricevuta è arrivata tardi.",),
           ("Tutto perfetto, pagamento veloce.", "Molto semplice e rapido.")),
}  # fmt: skip


def people(n: int, rng: np.random.Generator) -> tuple[list[str], list[str]]:
    """`n` names and as many distinct mail addresses."""
    first, last = rng.integers(0, len(_FIRST), n), rng.integers(0, len(_LAST), n)
    full = [f"{_FIRST[f]} {_LAST[s]}" for f, s in zip(first, last, strict=True)]
    mails = [f"{name.lower().replace(' ', '.')}.{i}@mail.example" for i, name in enumerate(full)]
    return full, mails


def shops(n: int, rng: np.random.Generator) -> list[str]:
    """`n` shop names."""
    first, second = rng.integers(0, len(_SHOP), n), rng.integers(0, len(_TRADE), n)
    return [f"{_SHOP[f]} {_TRADE[s]}" for f, s in zip(first, second, strict=True)]


def text(rating: int, pick: float, language: str = "en") -> str:
    """A sentence of someone who gives this rating; `pick` in [0, 1) chooses it."""
    choices = _OTHERS[language][(rating + 1) // 2 - 1] if language in _OTHERS else _TEXTS[rating]
    return choices[int(pick * len(choices))]
