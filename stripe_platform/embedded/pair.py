"""Two OLTP servers as production has them: roles, schema, slot, and clients that find whoever is primary."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from pydantic import SecretStr

from stripe_platform.cdc.capture import ensure_slot
from stripe_platform.embedded import places, postgres, processes, standby
from stripe_platform.embedded.load import Payer
from stripe_platform.embedded.postgres import Cluster
from stripe_platform.embedded.servers import ROLES
from stripe_platform.embedded.standby import Member
from stripe_platform.oltp import write
from stripe_platform.oltp.migrate import migrate
from stripe_platform.oltp.reference import seed_reference
from stripe_platform.settings import Settings

SLOT = PUBLICATION = "ha_drill"
DATABASE = "oltp"
# A server that vanished without a word must not hold a client for minutes: that is what the last two are for.
FIND_PRIMARY = "target_session_attrs=read-write&connect_timeout=2&tcp_user_timeout=2000"


@dataclass(frozen=True)
class Pair:
    """Two members, each in a home of its own as if on a machine of its own, and the passwords of their roles."""

    home: Path
    first: Member
    second: Member
    passwords: dict[str, str] = field(default_factory=lambda: {
        role: secrets.token_urlsafe(18) for role in (*ROLES["oltp"], standby.ROLE)})

    @classmethod
    def below(cls, home: Path, *, fsync: bool = True) -> Pair:
        """Places and free ports for two servers below `home`; nothing is started yet."""
        ports: set[int] = set()
        password, members = secrets.token_urlsafe(18), []
        for name in ("node_a", "node_b"):
            place = places.choose(home / name)
            ports.add(port := processes.free_port(ports))
            members.append(Member(name, Cluster("oltp", place, port, password, fsync)))
        return cls(home, members[0], members[1])

    @property
    def standby_password(self) -> str:
        return self.passwords[standby.ROLE]

    def url(self, role: str) -> str:
        """Leads to whoever is primary now, as a client in production would be told."""
        hosts = ",".join(f"127.0.0.1:{member.cluster.port}" for member in (self.first, self.second))
        return f"postgresql://{role}:{self.passwords[role]}@{hosts}/{DATABASE}?{FIND_PRIMARY}"

    def url_of(self, member: Member, role: str) -> str:
        """Leads to one member, primary or not."""
        return member.cluster.dsn(role, self.passwords[role], DATABASE)

    @property
    def settings(self) -> Settings:
        """Settings of a platform on these servers, with a lake in the same home."""
        return Settings(
            home=self.home, lake_url=str(self.home / "lake"), cdc_slot=SLOT, cdc_publication=PUBLICATION,
            cdc_dsn=SecretStr(self.url("payments_cdc")), oltp_owner_dsn=SecretStr(self.url("payments_owner")))

    def start_first(self) -> None:
        """The first server as a primary without standby: roles, schema, publication, slot."""
        cluster = self.first.cluster
        cluster.make()
        cluster.start()
        postgres.ensure_roles(cluster, {role: self.passwords[role] for role in ROLES["oltp"]}, ROLES["oltp"])
        for role in ROLES["oltp"]:
            postgres.ensure_database(cluster, DATABASE, role)
        migrate(self.settings.need("oltp_owner_dsn"), publication=PUBLICATION)
        ensure_slot(self.settings)

    def start_second(self, *, synchronous: bool = True) -> None:
        """The hot standby; from here on a commit is acknowledged when it is on both disks."""
        standby.lead(self.first)
        standby.admit(self.first, self.second, self.standby_password)
        standby.clone(self.first, self.second, self.standby_password)
        standby.lead(self.first, [self.second], synchronous=synchronous)
        if synchronous:
            standby.wait_in_sync(self.first, self.second)


def make_payers(connection: psycopg.Connection, count: int) -> list[Payer]:
    """Reference rows, and merchant, payer and card for each of `count` clients, in the caller's transaction."""
    seed_reference(connection)
    return [_payer(connection, number) for number in range(count)]


def _payer(connection: psycopg.Connection, number: int) -> Payer:
    account = write.create_account(connection, name=f"shop {number}", country="FR", currency="eur", mcc="5411")
    customer = f"cus_{number:032x}"  # without name and e-mail: a drill needs no keys
    connection.execute("insert into oltp.customers (id, country, currency, token, created)"
                       " values (%s, 'FR', 'eur', %s, now())", [customer, f"tok_{number}"])
    method = write.create_payment_method(connection, customer_id=customer, brand="visa", last4="4242", exp_month=12,
                                         exp_year=2030, funding="credit", country="FR")
    return Payer(account, customer, method)
