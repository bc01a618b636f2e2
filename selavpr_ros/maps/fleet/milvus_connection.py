"""A connection to Milvus, or to Milvus Lite in this process, that fails in time and says why."""

from __future__ import annotations

import logging
import logging.config
import os
import re
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from selavpr_ros.errors import MapError, UnreachableError

if TYPE_CHECKING:
    from pymilvus import MilvusClient

SCHEMES = ('milvus', 'http', 'https')
DEFAULT_NAME = 'selavpr'
# A call to Lite must not be given up: it would go on beside the next one, and Lite loses rows
# when two write at a time. It runs in this process, so no network can make it wait.
LITE_WAIT_S = 60.0
# gRPC's status of a server that is not there, and of one that is too slow.
UNREACHABLE = ('UNAVAILABLE', 'DEADLINE_EXCEEDED')
# Milvus's error codes for conditions that will pass: not ready, unavailable, too many requests,
# rate limit, quota, time ticks delayed.
PASSING_CODES = (1, 2, 4, 8, 9, 11)

DOTENV_OFF = 'PYTHON_DOTENV_DISABLED'


def is_address(path: str) -> bool:
    """Tell whether a map's path is the address of a shared map."""
    return path.partition('://')[0] in SCHEMES and '://' in path


def without_secrets(path: str) -> str:
    """A map's path without user and password."""
    return str(Address.parse(path)) if is_address(path) else path


@dataclass(frozen=True)
class Address:
    """Where a shared map is.

    Attributes:
        uri: what pymilvus takes: http(s)://HOST:PORT, or the absolute path of a Lite folder.
        name: of the map there.
        is_lite: whether it is Milvus Lite.
    """

    uri: str
    name: str
    is_lite: bool

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read milvus://HOST:PORT, http(s)://[USER:PASSWORD@]HOST:PORT or milvus://FOLDER.db.

        All three may end with #NAME: several maps on one server.

        Raises:
            MapError: it is none of them.
        """
        where, _, name = text.partition('#')
        scheme, _, rest = where.rstrip('/').partition('://')
        name = name or DEFAULT_NAME
        if not re.fullmatch(r'[A-Za-z_]\w{0,200}', name, re.ASCII):  # perhaps of a password
            raise MapError("what is behind the # of a shared map's address is no name: use "
                           'letters, digits and underscores; a # in a password is written %23')
        is_lite = scheme == 'milvus' and rest.endswith('.db')
        if scheme not in SCHEMES or not (is_lite or urlsplit(f'//{rest}').hostname):
            raise MapError('no address of a shared map: give milvus://HOST:PORT, '
                           'http(s)://HOST:PORT, or milvus:///FOLDER.db for Milvus Lite')
        if is_lite:
            return cls(str(Path(rest).expanduser().absolute()), name, is_lite=True)
        return cls(f'{"http" if scheme == "milvus" else scheme}://{rest}', name, is_lite=False)

    def __str__(self) -> str:
        """Without user and password."""
        parts = urlsplit(self.uri)
        secret = parts.netloc.rpartition('@')[0] if not self.is_lite else ''
        where = self.uri.replace(f'{secret}@', '') if secret else self.uri
        return f"map '{self.name}' on {where}"


# ---- pymilvus ----------------------------------------------------------------------------------


@contextmanager
def _no_side_effects() -> Iterator[None]:
    """Keep the import of pymilvus from reading a file .env and from closing all log files."""
    configure, before = logging.config.dictConfig, os.environ.get(DOTENV_OFF)
    logging.config.dictConfig = lambda config: None
    os.environ[DOTENV_OFF] = '1'
    try:
        yield
    finally:
        logging.config.dictConfig = configure
        del os.environ[DOTENV_OFF]
        if before is not None:
            os.environ[DOTENV_OFF] = before


def _pymilvus(lite: bool) -> ModuleType:
    """The client library, imported at the first use: that takes about a second."""
    try:
        with _no_side_effects():
            import pymilvus
            if lite:
                import milvus_lite.server_manager  # noqa: F401
    except ImportError as error:
        raise MapError(f'a shared map needs a package that is missing ({error}): install it with '
                       "pip install 'selavpr_ros[milvus]'") from error
    # These loggers print the traceback of every error, which is raised anyway.
    for name in ('pymilvus', 'milvus_lite.server_manager', 'milvus_lite.adapter'):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return pymilvus


def _rpc_status(error: BaseException | None) -> str:
    """Name of gRPC's status behind an error of pymilvus, which hides it; empty without."""
    import grpc

    seen: set[int] = set()  # pymilvus raises errors from themselves
    while error is not None and id(error) not in seen:
        if isinstance(error, grpc.RpcError) and hasattr(error, 'code'):
            return str(error.code().name)
        seen.add(id(error))
        error = error.__context__
    return ''


def _message(error: BaseException) -> str:
    """First line of an error's text."""
    text = getattr(error, 'message', '') or str(error)
    return text.splitlines()[0] if text else type(error).__name__


# ---- Milvus Lite -------------------------------------------------------------------------------


@dataclass
class _LiteFolder:
    """A Milvus Lite folder that this process has open, for all its connections."""

    lock: threading.RLock = field(default_factory=threading.RLock)
    users: int = 0


_lite_folders: dict[str, _LiteFolder] = {}
_lite_guard = threading.Lock()


def _enter_folder(path: str) -> AbstractContextManager[Any]:
    """Lock to hold while Lite is used: Lite itself has none, and loses rows without it."""
    with _lite_guard:
        folder = _lite_folders.setdefault(path, _LiteFolder())
        folder.users += 1
        return folder.lock


def _leave_folder(path: str) -> None:
    """Let another process have the folder once no connection of this one uses it."""
    from milvus_lite.server_manager import server_manager_instance

    with _lite_guard:
        _lite_folders[path].users -= 1
        if _lite_folders[path].users == 0:
            del _lite_folders[path]
            # Closing a client alone would leave the server, its threads and the lock file.
            server_manager_instance.release_server(path)


# ---- the connection ----------------------------------------------------------------------------


class MilvusConnection:
    """A client of one server, for any thread.

    Args:
        address: of the shared map.
        timeout_s: seconds until a server that does not answer is given up; one that goes away
            while it is asked can take twice as long.

    Raises:
        UnreachableError: it does not answer. MapError: it refuses, or pymilvus is missing.
    """

    def __init__(self, address: Address, timeout_s: float) -> None:
        self.address = address
        self._timeout_s = timeout_s
        self._client: MilvusClient | None = None
        pymilvus = _pymilvus(address.is_lite)
        import grpc

        self.failures = (pymilvus.exceptions.MilvusException, grpc.RpcError, ValueError)
        self._lock = _enter_folder(address.uri) if address.is_lite else nullcontext()
        # A private pool: the shared one waits up to two minutes before it tries a server again.
        options: dict[str, int] = {'grpc.use_local_subchannel_pool': 1}
        if address.is_lite:  # else a web proxy would be asked for a server in this process
            options['grpc.enable_http_proxy'] = 0
        try:
            with self._lock:
                self._client = pymilvus.MilvusClient(
                    address.uri, timeout=self.wait_s(timeout_s), dedicated=True,
                    grpc_options=options)
        except self.failures as error:
            if address.is_lite:
                _leave_folder(address.uri)
            raise self._explain('connect', error) from error

    def wait_s(self, seconds: float | None = None) -> float:
        """Seconds to wait for an answer; for Lite always long enough."""
        wanted = self._timeout_s if seconds is None else seconds
        return max(wanted, LITE_WAIT_S) if self.address.is_lite else wanted

    @contextmanager
    def asking(self, what: str) -> Iterator[MilvusClient]:
        """The client, for Lite under its lock; what it raises becomes a MapError."""
        client = self._client
        if client is None:
            raise MapError(f'{self.address}: it cannot {what}: the connection was closed')
        with self._lock:
            try:
                yield client
            except self.failures as error:
                raise self._explain(what, error) from error

    def close(self) -> None:
        """Close the connection; for Lite, write everything to disk and free the folder."""
        client, self._client = self._client, None
        if client is None:
            return
        with self._lock:
            client.close()
        if self.address.is_lite:
            _leave_folder(self.address.uri)

    def _explain(self, what: str, error: Exception) -> MapError:
        """One sentence about an error."""
        is_passing = not self.address.is_lite and getattr(error, 'code', 0) in PASSING_CODES
        if is_passing or _rpc_status(error) in UNREACHABLE:
            return UnreachableError(
                f'{self.address}: no answer in time when asked to {what}: check that the Milvus '
                'server runs and the network is up, or allow more with map.server_timeout '
                f'({_message(error)})')
        if self.address.is_lite and what == 'connect':
            return MapError(f'{self.address}: it cannot be opened: another process has it open, '
                            f'or it is no folder of Milvus Lite ({_message(error)})')
        return MapError(f'{self.address}: it refused to {what}: {_message(error)}')
