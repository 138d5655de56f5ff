"""A person in a room: a matrix-nio client with its own cryptography, driven over standard input and output.

    python person.py HOMESERVER FOLDER

Every line is a JSON object. In come requests:

    {"id": 1, "do": "login",   "user": …, "password": …, "device_name": …}
    {"id": 2, "do": "send",    "room": …, "type": …, "content": {…}, "members": [user, …]}
    {"id": 3, "do": "devices", "user": …}
    {"id": 4, "do": "upload",  "text": …, "mime": …, "encrypt": true}
    {"id": 5, "do": "withhold", "room": …}
    {"id": 6, "do": "give",    "key": …, "user": …}
    {"id": 7, "do": "download", "content": {…}}

Out go one answer for each, `{"id": 1, "ok": {…}}` or `{"id": 1, "error": "…"}`, and, unasked, what the person sees:

    {"seen": {"n": 0, "what": "event" | "typing" | "receipt" | "invite" | "gap", "room": …, …}}

`n` counts from 0 without a hole. An event that could not be decrypted is said again, under its old `n`, once its
key has come. What needs no cryptography (rooms, invitations, typing) is asked of the server by the test itself.
"""

import asyncio
import base64
import io
import json
import os
import shutil
import sys

from nio import (
    AsyncClient,
    AsyncClientConfig,
    EncryptionError,
    ErrorResponse,
    KeysQueryResponse,
    MegolmEvent,
    SyncError,
    SyncResponse,
    ToDeviceMessage,
)
from nio.crypto.attachments import decrypt_attachment

DEADLINE = 20  # seconds that one request may take
# A person's own timeline: more than Synapse hands out at once (100), so the server decides, and gaps are told.
FILTER = {"room": {"timeline": {"limit": 1000}}}


def say(line):
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def checked(response):
    if isinstance(response, ErrorResponse):
        raise RuntimeError(f"{type(response).__name__}: {response.status_code} {response.message}")
    return response


class Client(AsyncClient):
    async def keys_query(self):
        # A query that was due may have been answered meanwhile, by another task's; nio takes that for a mistake.
        return await super().keys_query() if self.should_query_keys else KeysQueryResponse({}, {})


class Person:
    def __init__(self, homeserver, folder):
        config = AsyncClientConfig(encryption_enabled=True, max_timeout_retry_wait_time=0.5)
        self.homeserver, self.folder, self.config = homeserver, folder, config
        self.client = None
        self.synced = asyncio.Condition()
        self.sending = asyncio.Lock()
        self.count = 0
        self.locked = []  # (n, room, raw event, nio's event): not decrypted yet
        self.rooms = set()
        self.withheld = {}  # by session

    # What can be asked.

    async def login(self, user, password, device_name):
        self.client = Client(self.homeserver, user, store_path=self.folder, config=self.config)
        login = checked(await self.client.login(password, device_name))
        self.client.add_response_callback(self.on_sync, SyncResponse)
        self.client.add_response_callback(self.on_sync_error, SyncError)
        # nio sets `synced` after the first sync and the upload of the keys that follows it.
        first = asyncio.create_task(self.client.synced.wait())
        forever = asyncio.create_task(self.client.sync_forever(timeout=30_000, sync_filter=FILTER, full_state=True))
        forever.add_done_callback(ended)
        await first
        return {"user": login.user_id, "device": login.device_id, "token": login.access_token}

    async def send(self, room, type, content, members):
        # A device that this client has not heard of yet would be sent no key.
        await self.until(lambda: room in self.client.rooms and set(members) <= set(self.client.rooms[room].users))
        async with self.sending:
            if self.client.should_query_keys:
                checked(await self.client.keys_query())
            sent = checked(await self.client.room_send(room, type, content, ignore_unverified_devices=True))
        return {"event_id": sent.event_id}

    async def upload(self, text, mime, encrypt):
        """What stands in a message's content for the file: its address, or the encrypted file."""
        data = text.encode()
        uploaded, keys = await self.client.upload(
            lambda *_: io.BytesIO(data), content_type=mime, encrypt=encrypt, filesize=len(data)
        )
        url = checked(uploaded).content_uri
        return {"file": keys | {"url": url}} if encrypt else {"url": url}

    async def withhold(self, room):
        """What is said next has a new key, which nobody is told."""
        olm = self.client.olm
        olm.create_outbound_group_session(room)
        session = olm.outbound_group_sessions[room]
        self.withheld[session.id] = {
            "algorithm": "m.megolm.v1.aes-sha2",
            "room_id": room,
            "session_id": session.id,
            "session_key": session.session_key,
        }
        session.mark_as_shared()
        return {"key": session.id}

    async def give(self, key, user):
        """The key as it was at first. There has been a key for this user before."""
        olm = self.client.olm
        for device in olm.device_store.active_user_devices(user):
            session = olm.session_store.get(device.curve25519)
            content = olm._olm_encrypt(session, device, "m.room_key", self.withheld[key])
            checked(await self.client.to_device(ToDeviceMessage("m.room.encrypted", user, device.id, content)))
        return {}

    async def download(self, content):
        """The file of a message, out of its encryption."""
        file = content.get("file")
        server, media = (file or content)["url"].removeprefix("mxc://").split("/")
        # nio asks without a token, which servers no longer answer.
        path = f"/_matrix/client/v1/media/download/{server}/{media}"
        answer = await self.client.send("GET", path, headers={"Authorization": f"Bearer {self.client.access_token}"})
        answer.raise_for_status()
        body = await answer.read()
        if file:
            body = decrypt_attachment(body, file["key"]["k"], file["hashes"]["sha256"], file["iv"])
        return {"base64": base64.b64encode(body).decode()}

    async def devices(self, user):
        self.client.olm.users_for_key_query.add(user)
        checked(await self.client.keys_query())
        return [
            {"id": device.id, "name": device.display_name, "ed25519": device.ed25519, "curve25519": device.curve25519}
            for device in self.client.device_store.active_user_devices(user)
        ]

    # What is seen.

    async def on_sync(self, response):
        raw = await response.transport_response.json()
        for n, room, event, locked in self.locked[:]:
            if (clear := self.decrypt(locked)) is not None:
                self.locked.remove((n, room, event, locked))
                say({"seen": self.event(room, event, clear) | {"n": n}})
        for room, joined in raw.get("rooms", {}).get("join", {}).items():
            read = {event.event_id: event for event in response.rooms.join[room].timeline.events}
            self.on_room(room, joined, read)
        for room, invited in raw.get("rooms", {}).get("invite", {}).items():
            for event in invited["invite_state"]["events"]:
                if event["type"] == "m.room.member" and event["state_key"] == self.client.user_id:
                    self.see("invite", room, sender=event["sender"])
        for room, left in raw.get("rooms", {}).get("leave", {}).items():
            self.rooms.discard(room)
            for event in left.get("timeline", {}).get("events", []):
                if event["type"] == "m.room.member":
                    self.see_event(room, event, None)
        async with self.synced:
            self.synced.notify_all()

    def on_room(self, room, joined, read):
        if joined["timeline"].get("limited") and room in self.rooms:
            self.see("gap", room)
        self.rooms.add(room)
        for event in joined.get("state", {}).get("events", []):
            self.see_event(room, event, None, from_state=True)
        for event in joined["timeline"]["events"]:
            self.see_event(room, event, read.get(event["event_id"]))
        for event in joined.get("ephemeral", {}).get("events", []):
            if event["type"] == "m.typing":
                self.see("typing", room, users=event["content"]["user_ids"])
            elif event["type"] == "m.receipt":
                self.on_receipts(room, event["content"])

    def on_receipts(self, room, content):
        for event_id, kinds in content.items():
            for kind, users in kinds.items():
                for user, receipt in users.items():
                    self.see("receipt", room, event_id=event_id, kind=kind, user=user, thread=receipt.get("thread_id"))

    def see_event(self, room, event, read, **more):
        if isinstance(read, MegolmEvent):
            self.locked.append((self.count, room, event, read))
        self.see(**self.event(room, event, read), **more)

    def event(self, room, event, read):
        """An event as the server gave it (`wire_…`) and as this client reads it."""
        encrypted = event["type"] == "m.room.encrypted"
        decrypted = encrypted and getattr(read, "decrypted", False)
        clear = read.source if decrypted else event
        return {
            "what": "event",
            "room": room,
            "event_id": event["event_id"],
            "sender": event["sender"],
            "state_key": event.get("state_key"),
            "type": clear["type"],
            "content": clear["content"],
            "redacts": event.get("redacts") or event["content"].get("redacts"),
            "wire_type": event["type"],
            "wire_content": event["content"],
            "decrypted": decrypted,
            "at": event["origin_server_ts"],
        }

    def see(self, what, room, **more):
        say({"seen": {"n": self.count, "what": what, "room": room} | more})
        self.count += 1

    def decrypt(self, event):
        try:
            return self.client.decrypt_event(event)
        except EncryptionError:
            return None

    async def on_sync_error(self, response):
        raise RuntimeError(f"sync failed: {response.status_code} {response.message}")

    async def until(self, true):
        async with self.synced:
            await self.synced.wait_for(true)

    async def answer(self, request):
        asked = request.pop("id")
        try:
            does = {
                "login": self.login,
                "send": self.send,
                "devices": self.devices,
                "upload": self.upload,
                "withhold": self.withhold,
                "give": self.give,
                "download": self.download,
            }
            do = does[request.pop("do")]
            say({"id": asked, "ok": await asyncio.wait_for(do(**request), DEADLINE)})
        except Exception as error:
            say({"id": asked, "error": f"{type(error).__name__}: {error}"})


def ended(task):
    """A person who no longer hears anything is of no use to a test: end, and let the reason stand on stderr."""
    if not task.cancelled():
        print(f"sync ended: {task.exception()!r}", file=sys.stderr, flush=True)
        os._exit(1)


async def main():
    person = Person(*sys.argv[1:])
    reader = asyncio.StreamReader(limit=2**24)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    tasks = set()
    while line := await reader.readline():
        task = asyncio.create_task(person.answer(json.loads(line)))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    # The test is over, perhaps without having had the time to tidy up.
    shutil.rmtree(person.folder, ignore_errors=True)
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(main())
