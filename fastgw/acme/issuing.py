"""Main module of the process that talks to an issuer: `python -P -m fastgw.acme.issuing`, with its socket as standard
input. It gets one job, reports its result, and ends.

Rule 1: it ends with control, and after the job's time limit. Rule 2: the certificate and its key are stored in one
file, once it is complete. Rule 3: whatever an issuer sends, or does not send, the next one is asked in its turn.
"""

import datetime
import os
import resource
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from email.utils import parsedate_to_datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, NoReturn

import msgspec
import requests
from acme import client, errors
from acme import messages as acme_messages
from acme.challenges import UnrecognizedChallenge
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from josepy.b64 import b64encode
from josepy.json_util import JSONObjectWithFields, field
from josepy.jwa import ES256
from josepy.jwk import JWKEC

from fastgw.acme.messages import MOST_LINE, Failed, FromIssuing, Issued, Issuer, Job, Renewal, ToAnswer
from fastgw.acme.storage import (
    MOST_BYTES,
    Account,
    account_file,
    check_space,
    locked,
    read_account,
    remove_leftovers,
    write,
)
from fastgw.kernel import memory_file, when_alone
from fastgw.net.pem import pair_problem

USER_AGENT: Final = "fastgw"
TIMEOUT_S: Final = 20
"""Timeout of a response of an issuer."""
MEMORY_BYTES: Final = 1024**3
ACME_IDENTIFIER: Final = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.31")
RENEWAL_PERIOD_S: Final = 6 * 3600.0
"""Seconds after which the issuer is asked for the renewal date again, unless it says otherwise."""
UNUSABLE: Final = (
    errors.Error,
    acme_messages.Error,
    requests.RequestException,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
)
"""Errors of an issuer, and of the libraries for an answer with missing or other values."""
_TEXT: Final = 500


class IssuerFailed(Exception):
    """An issuer has failed. `retry_after`: seconds that it demands to wait; 0: none."""

    def __init__(self, why: str, retry_after: float = 0.0) -> None:
        super().__init__(why)
        self.retry_after = retry_after


class _Empty(JSONObjectWithFields):
    """The empty object. The library sends nothing for an object that is false."""

    def __bool__(self) -> bool:
        return True


class _NewOrder(acme_messages.NewOrder):
    """Order of a certificate that replaces another one (RFC 9773 section 5)."""

    replaces: str = field("replaces", omitempty=True)


class _Network(client.ClientNetwork):
    """Network of the library, which remembers the delay that an error demands, and the last answer."""

    retry_after = 0.0
    answer: requests.Response | None = None

    def _send_request(self, method: str, url: str, *args: Any, **options: Any) -> requests.Response:
        if not url.startswith("https://"):
            raise errors.ClientError(f"{url} is not an https URL")
        response = super()._send_request(method, url, *args, allow_redirects=False, **options)
        if not response.ok and (text := response.headers.get("Retry-After", "")):
            self.retry_after = max(_seconds_of(text), self.retry_after)
        self.answer = response
        return response


class _Client(client.ClientV2):
    """Client of an issuer. `replaced`: certificate that the next order replaces; None: none, or it has no support."""

    replaced: str | None = None

    def _post(self, url: str, *args: Any, **options: Any) -> requests.Response:
        if args and self.replaced and isinstance(args[0], acme_messages.NewOrder):
            args = (_NewOrder(identifiers=args[0].identifiers, replaces=self.replaced), *args[1:])
        return super()._post(url, *args, **options)


def main() -> NoReturn:
    """Run the job that control sends."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)  # control decides
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    when_alone(signal.SIGKILL)
    for limit, most in ((resource.RLIMIT_CORE, 0), (resource.RLIMIT_AS, MEMORY_BYTES)):
        hard = resource.getrlimit(limit)[1]
        value = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(limit, (value, value))
    control = socket.socket(fileno=os.dup(0)).makefile("rwb")
    job = msgspec.json.decode(control.readline(MOST_LINE), type=Job)

    def answer(challenges: ToAnswer) -> None:
        _send(control, challenges)
        if not control.readline(MOST_LINE):
            os._exit(1)  # control has ended

    try:
        result = run(job, answer)
    except Exception as error:  # the edge of the process: control reports the error
        result = Failed(f"{type(error).__name__}: {error}"[:_TEXT])
    _send(control, result)
    os._exit(0)


def _send(control: Any, message: FromIssuing) -> None:
    control.write(msgspec.json.encode(message) + b"\n")
    control.flush()


def run(job: Job, answer: Callable[[ToAnswer], None]) -> Issued | Failed | Renewal:
    """Run a job. `answer`: sends challenges to the workers, and returns once they answer them."""
    file = Path(job.file)
    if job.asks:
        with _limited(job.seconds):
            return _ask_renewal(job, file.read_bytes())
    with locked(file):
        remove_leftovers(file.parent, file.name)
        with suppress(OSError):
            if job.unless_serial is not None and _is_newer(file.read_bytes(), job.unless_serial):
                return Issued("")
        try:
            check_space(file)
        except OSError as error:
            return Failed(f"{file} cannot be written: {error.strerror or error}")
        failed: list[str] = []
        retry_after = 0.0
        ends_at = time.monotonic() + job.seconds
        for at, issuer in enumerate(job.issuers):
            seconds = (ends_at - time.monotonic()) / (len(job.issuers) - at)
            try:
                with _limited(seconds):
                    content = _Issuing(job, issuer, answer, seconds).obtain()
            except IssuerFailed as error:
                failed.append(f"{issuer.directory}: {error}"[:_TEXT])
                retry_after = max(retry_after, error.retry_after)
                continue
            try:
                write(file, content)
            except OSError as error:
                return Failed(f"{file} cannot be written: {error.strerror or error}")
            return Issued(issuer.directory, "; ".join(failed))
        return Failed("; ".join(failed), retry_after)


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """Raise `TimeoutError` of the library in this block after some seconds, and each second until it has ended."""

    def end(*_: object) -> None:
        raise errors.TimeoutError

    signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 1.0), 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _is_newer(content: bytes, known_serial: str) -> bool:
    """Whether a file has a valid certificate other than the known one."""
    if pair_problem(content, content) is not None:
        return False
    certificate = x509.load_pem_x509_certificate(content)
    valid = certificate.not_valid_before_utc <= datetime.datetime.now(datetime.UTC) < certificate.not_valid_after_utc
    return valid and f"{certificate.serial_number:X}" != known_serial.lstrip("0")


def _ask_renewal(job: Job, content: bytes) -> Failed | Renewal:
    known = [each for each in job.issuers if each.directory == job.replaced_issuer]
    now = time.time()
    if not known:
        return Renewal(0.0, now + RENEWAL_PERIOD_S)
    with ExitStack() as stack:
        try:
            asked = _connected(known[0], None, stack)
            date, again = asked.renewal_time(content)
            if _is_reversed(asked.net):
                return Failed("the renewal date is unknown: the issuer's window does not end after it starts")
        except errors.ARIError as error:
            return Failed(f"the renewal date is unknown: {error}"[:_TEXT])
        except UNUSABLE as error:
            return Failed(_words(error))
    ask_date = min(max(again.timestamp(), now + 60), now + 24 * 3600)
    return Renewal(0.0 if date is None else date.timestamp(), ask_date)


def _is_reversed(network: Any) -> bool:
    """Whether the last answer is a renewal window that does not end after it starts, which counts as none (RFC 9773
    section 4.2). The library picks a date in it nevertheless.
    """
    said = network.answer.json()
    if not isinstance(said, dict) or "suggestedWindow" not in said:
        return False
    window = acme_messages.RenewalInfo.from_json(said).suggested_window
    return bool(window.end <= window.start)


def _connected(issuer: Issuer, key: Any, stack: ExitStack) -> _Client:
    """Return a client of an issuer. Raises errors of the libraries."""
    network = _Network(key, alg=ES256, user_agent=USER_AGENT, timeout=TIMEOUT_S)
    stack.callback(network.session.close)
    if issuer.ca:
        descriptor = memory_file("acme-ca")
        stack.callback(os.close, descriptor)
        os.write(descriptor, issuer.ca.encode())
        network.verify_ssl = f"/proc/self/fd/{descriptor}"  # type: ignore[assignment]  # passed on to requests
    return _Client(client.ClientV2.get_directory(issuer.directory, network), network)


class _Issuing:
    """One attempt with one issuer."""

    def __init__(self, job: Job, issuer: Issuer, answer: Callable[[ToAnswer], None], seconds: float) -> None:
        self._job, self._issuer, self._answer, self._seconds = job, issuer, answer, seconds
        self._client: _Client
        self._key: Any

    def obtain(self) -> bytes:
        """Return a certificate with its chain, and its key. Raises `IssuerFailed`."""
        network = None
        with ExitStack() as stack:
            try:
                with locked(self._account_file):
                    self._log_in(stack)
                network = self._client.net
                return self._order(stack)
            except Exception as error:  # the edge of the libraries, which an issuer may make raise anything
                retry_after = network.retry_after if isinstance(network, _Network) else 0.0
                raise IssuerFailed(_words(error), retry_after) from error

    @property
    def _account_file(self) -> Path:
        return account_file(self._job.storage, self._issuer.directory, self._job.email, self._issuer.key_id)

    def _log_in(self, stack: ExitStack) -> None:
        """Use the stored account, or register one."""
        remove_leftovers(self._account_file.parent, self._account_file.name)
        account = read_account(self._account_file)
        if account is None:
            account = Account(_pem_of(ec.generate_private_key(ec.SECP256R1())))
            write(self._account_file, msgspec.json.encode(account))  # first: a registered key is never lost
        self._key = JWKEC(key=serialization.load_pem_private_key(account.key.encode(), None))
        self._client = _connected(self._issuer, self._key, stack)
        if account.uri:
            self._use_account(account.uri)
            return
        binding = None
        if self._issuer.key_id:
            binding = acme_messages.ExternalAccountBinding.from_data(
                self._key.public_key(), self._issuer.key_id, self._issuer.key, self._client.directory
            )
        wanted = acme_messages.NewRegistration.from_data(
            email=self._job.email or None, terms_of_service_agreed=True, external_account_binding=binding
        )
        try:
            uri = self._client.new_account(wanted).uri
        except errors.ConflictError as conflict:  # it is registered: the process was killed before it knew
            uri = conflict.location
            self._use_account(uri)
        write(self._account_file, msgspec.json.encode(Account(account.key, uri)))

    def _use_account(self, uri: str) -> None:
        self._client.net.account = acme_messages.RegistrationResource(body=acme_messages.Registration(), uri=uri)

    def _order(self, stack: ExitStack) -> bytes:
        job, asked = self._job, self._client
        key, csr = _request(job.domains, job.key)
        order = self._new_order(csr)
        deadline = datetime.datetime.now() + datetime.timedelta(seconds=self._seconds)
        self._prove([each for each in order.authorizations if each.body.status != acme_messages.STATUS_VALID], stack)
        order = asked.poll_and_finalize(order, deadline)
        chain = order.fullchain_pem.strip() + "\n"
        content = chain.encode() + key
        self._check_chain(chain, content)
        return content

    def _new_order(self, csr: bytes) -> acme_messages.OrderResource:
        """Order a certificate; if the account is unknown, it is registered again at the next attempt."""
        job, asked = self._job, self._client
        if job.replaces and job.replaced_issuer == self._issuer.directory:
            with suppress(KeyError, OSError, ValueError, x509.ExtensionNotFound):
                asked.directory["renewalInfo"]  # KeyError: the issuer does not know RFC 9773
                asked.replaced = client._renewal_info_path_component(
                    x509.load_pem_x509_certificate(Path(job.file).read_bytes())
                )
        try:
            return asked.new_order(csr)
        except acme_messages.Error as error:
            if error.code == "accountDoesNotExist":
                with suppress(OSError):
                    self._account_file.unlink()
            if asked.replaced and error.code in ("alreadyReplaced", "conflict", "malformed"):
                asked.replaced = None
                return asked.new_order(csr)
            raise
        except errors.ConflictError:  # 409: it is replaced already (RFC 9773 section 5)
            if not asked.replaced:
                raise
            asked.replaced = None
            return asked.new_order(csr)

    def _prove(self, authorizations: Sequence[acme_messages.AuthorizationResource], stack: ExitStack) -> None:
        """Prepare the answers to the challenges of all names, and ask the issuer to verify them."""
        kind = self._job.challenge
        http: dict[str, str] = {}
        tls: dict[str, str] = {}
        chosen: list[str] = []
        for each in authorizations:
            name = each.body.identifier.value
            challenge = next((one for one in each.body.challenges if _json_of(one).get("type") == kind), None)
            if challenge is None:
                offered = ", ".join(sorted(str(_json_of(one).get("type")) for one in each.body.challenges))
                raise ValueError(f"{name} cannot be verified by {kind}; the issuer offers {offered}")
            token = str(_json_of(challenge)["token"])
            if not token or not set(token) <= _TOKEN:
                raise ValueError("the issuer has sent an invalid token")
            text = f"{token}.{b64encode(self._key.thumbprint()).decode()}"
            chosen.append(str(challenge.uri))
            if kind == "http-01":
                http[token] = text
            elif kind == "tls-alpn-01":
                tls[name] = _challenge_certificate(name, text)
            else:
                record = b64encode(sha256(text.encode()).digest()).decode()
                self._set_record(f"_acme-challenge.{name.removeprefix('*.')}", record, stack)
        if http or tls:
            self._answer(ToAnswer(http, tls))
        for uri in chosen:
            self._client.net.post(uri, _Empty(), new_nonce_url=self._client.directory["newNonce"])

    def _set_record(self, name: str, value: str, stack: ExitStack) -> None:
        """Set a TXT record by the hook, until the attempt ends."""
        stack.callback(self._call_hook, "cleanup", name, value)
        if why := self._call_hook("present", name, value):
            raise ValueError(f"acme.dns_hook present {name}: {why}")

    def _call_hook(self, *arguments: str) -> str:
        """Return why the hook has failed; "": it has not."""
        job = self._job
        try:
            ended = subprocess.run(
                [*job.hook, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=job.hook_seconds,
                check=False,
                cwd="/",
                start_new_session=True,
            )
        except subprocess.TimeoutExpired:
            return f"not finished in {job.hook_seconds:g} s"
        except OSError as error:
            return f"it cannot be started: {error.strerror or error}"
        return f"exit status {ended.returncode}" if ended.returncode else ""

    def _check_chain(self, chain: str, content: bytes) -> None:
        """Check that the certificate is for the key, the names and the present time. Raises `ValueError`."""
        if len(content) > MOST_BYTES:
            raise ValueError(f"the issuer has sent a certificate chain of {len(content)} bytes")
        if wrong := pair_problem(content, content):
            raise ValueError(f"the issuer has sent an unusable certificate: {wrong.wrong}")
        certificate = x509.load_pem_x509_certificate(chain.encode())
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        if lacking := {*self._job.domains} - {each.lower() for each in names.get_values_for_type(x509.DNSName)}:
            raise ValueError(f"the certificate lacks names: {', '.join(sorted(lacking))}")
        now = datetime.datetime.now(datetime.UTC)
        if not certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc:
            since, until = certificate.not_valid_before_utc, certificate.not_valid_after_utc
            raise ValueError(
                f"the certificate is valid from {since:%Y-%m-%d %H:%M} to {until:%Y-%m-%d %H:%M} UTC, "
                f"and the clock of this machine says {now:%Y-%m-%d %H:%M}"
            )


_TOKEN: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


def _json_of(challenge: acme_messages.ChallengeBody) -> Mapping[str, Any]:
    held = challenge.chall
    found: Mapping[str, Any] = held.jobj if isinstance(held, UnrecognizedChallenge) else held.to_json()
    return found


def _request(domains: Sequence[str], kind: str) -> tuple[bytes, bytes]:
    """Return a new key and the certificate signing request, in PEM."""
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey = (
        rsa.generate_private_key(65537, 2048) if kind == "rsa" else ec.generate_private_key(ec.SECP256R1())
    )
    names = x509.SubjectAlternativeName([x509.DNSName(each) for each in domains])
    made = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).add_extension(names, critical=False)
    signed = made.sign(key, hashes.SHA256())
    return _pem_of(key).encode(), signed.public_bytes(serialization.Encoding.PEM)


def _pem_of(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> str:
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode()


def _challenge_certificate(name: str, text: str) -> str:
    """Return the certificate that answers tls-alpn-01 (RFC 8737 section 3), and its key, in PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ACME challenge")])
    now = datetime.datetime.now(datetime.UTC)
    made = x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
    made = made.serial_number(x509.random_serial_number())
    made = made.not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(now + datetime.timedelta(days=7))
    made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    digest = b"\x04\x20" + sha256(text.encode()).digest()
    made = made.add_extension(x509.UnrecognizedExtension(ACME_IDENTIFIER, digest), critical=True)
    return made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode() + _pem_of(key)


def _words(error: Exception) -> str:
    """Describe an error of the libraries in one line."""
    if isinstance(error, errors.ValidationError):
        found = [
            f"{each.body.identifier.value}: {one.error.detail or one.error.typ}"
            for each in error.failed_authzrs
            for one in each.body.challenges
            if one.error is not None
        ]
        return f"verification failed: {'; '.join(found)}"[:_TEXT]
    if isinstance(error, acme_messages.Error):
        return f"{error.code or error.typ}: {error.detail or ''}"[:_TEXT].replace("\n", " ")
    if isinstance(error, errors.TimeoutError):
        return "it has not finished in time"
    if isinstance(error, requests.RequestException):
        cause = error.args[0] if error.args else error
        why = getattr(cause, "reason", cause)
        return f"unreachable: {str(why).rpartition('>: ')[2].rpartition(': ')[2] or type(error).__name__}"[:_TEXT]
    if isinstance(error, OSError):
        return f"{error.filename or 'storage'}: {error.strerror or error}"
    if not isinstance(error, (errors.Error, ValueError)):
        return f"it has sent an unexpected answer: {type(error).__name__}: {error}"[:_TEXT].replace("\n", " ")
    return f"{error}".replace("\n", " ")[:_TEXT] or type(error).__name__


def _seconds_of(text: str) -> float:
    """Return the seconds of a Retry-After header; 0: it is invalid."""
    try:
        return float(int(text))
    except ValueError:
        pass
    try:
        return max(parsedate_to_datetime(text).timestamp() - time.time(), 0.0)
    except ValueError:
        return 0.0


if __name__ == "__main__":
    main()
