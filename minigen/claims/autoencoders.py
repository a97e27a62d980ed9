"""Autoencoders: holes between the codes, and how much to mask."""

from minigen.claims.ledger import Claim

CLAIMS: list[Claim] = []
