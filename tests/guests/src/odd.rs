//! Calls everything that a plugin may import, with values that nobody expects: which ones, a seed says.

use std::cell::Cell;

use parlour_plugin::{llm, prelude::*, random, secrets};
use wasip2::{
    cli::{environment, stderr::get_stderr, stdin::get_stdin, stdout::get_stdout},
    clocks::{
        monotonic_clock::{self, subscribe_duration, subscribe_instant},
        wall_clock::{self, Datetime},
    },
    filesystem::{
        preopens::get_directories,
        types::{Advice, Descriptor, DescriptorFlags, NewTimestamp, OpenFlags, PathFlags},
    },
    http::{
        outgoing_handler::handle,
        types::{Fields, IncomingBody, Method, OutgoingBody, OutgoingRequest, RequestOptions, Scheme},
    },
    io::{poll::poll, streams::OutputStream},
    random::{insecure::get_insecure_random_bytes, insecure_seed::insecure_seed},
    sockets::{
        instance_network::instance_network, ip_name_lookup::resolve_addresses, network::IpAddressFamily,
        tcp_create_socket::create_tcp_socket, udp_create_socket::create_udp_socket,
    },
};

struct Odd;

/// Calls of one handler.
const CALLS: u32 = 300;
/// And calls of timers, behind them.
const TIMERS: u32 = 30;
/// A text that is larger than anything may be; once, because two in one call are more than a call may have.
const HUGE: usize = 4 * 1024 * 1024;
/// Lines of the log that are not this handler's own.
const LINES: u32 = 40;

impl Commands for Odd {
    fn list_commands() -> Vec<Command> {
        vec![Command::new("odd", "SEED ORIGIN").rest("text", "Which values, and where a web server is")]
    }

    fn run(call: Invocation) -> Result<(), Error> {
        let (seed, origin) = call.rest.split_once(' ').unwrap_or_default();
        let state = seed.parse::<u64>().unwrap_or_default().wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let odd = Values { state: Cell::new(state), huge: Cell::new(1), lines: Cell::new(LINES), origin };
        let well = (0..CALLS).filter(|_| odd.call()).count();
        for _ in 0..TIMERS {
            odd.timers();
        }
        log::info(format!("odd {seed}: {CALLS} calls, {well} of them well"));
        Ok(())
    }
}

impl Timers for Odd {
    fn on_timer(_: Firing) -> Result<(), Error> {
        Ok(())
    }
}

/// Draws values.
struct Values<'a> {
    state: Cell<u64>,
    huge: Cell<u32>,
    lines: Cell<u32>,
    origin: &'a str,
}

/// What is odd as a text, and what is just about none.
const TEXTS: [&str; 44] = [
    "",
    "\0",
    "\n",
    " ",
    "\u{301}",
    "e\u{301}\u{301}\u{301}",
    "\u{202e}abc\u{202c}",
    "\u{2066}\u{200f}",
    "\u{d7ff}\u{e000}",
    "\u{fffe}\u{ffff}\u{10ffff}",
    "\\ud800\\udc00",
    "\u{1b}[2J\u{7}",
    "\u{feff}",
    "\u{200b}",
    "👍",
    "👍🏽",
    "🏴\u{e0067}\u{e0062}\u{e007f}",
    "!",
    "@",
    "$",
    "@:",
    "@a:",
    "@bob:memory",
    "@nobody:nowhere",
    "!room:memory",
    "!\u{301}",
    "$event",
    "$\u{202e}",
    "*",
    "..",
    "../..",
    "/",
    "/etc/passwd",
    "files/../../x",
    "a\\b",
    "con\0.txt",
    "%00%2e%2e",
    "{}",
    "[1]",
    "{\"temperature\":1e999,\"stream\":false,\"messages\":[]}",
    "{\"a\":",
    "-2147483648",
    "9999999999999999999",
    "NaN",
];

const NUMBERS: [u64; 18] = [
    0,
    1,
    2,
    99,
    100,
    1000,
    1001,
    4095,
    4096,
    65_535,
    65_537,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x1_0000_0000,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    0xffff_ffff_ffff_ffff,
];

impl Values<'_> {
    /// SplitMix64.
    fn draw(&self) -> u64 {
        self.state.set(self.state.get().wrapping_add(0x9e37_79b9_7f4a_7c15));
        let mut z = self.state.get();
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&self, count: u64) -> u64 {
        self.draw() % count
    }

    fn one<T: Clone>(&self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize].clone()
    }

    fn some<T>(&self, value: impl FnOnce() -> T) -> Option<T> {
        (self.below(3) > 0).then(value)
    }

    fn u64(&self) -> u64 {
        if self.below(4) == 0 { self.draw() } else { self.one(&NUMBERS) }
    }

    fn u32(&self) -> u32 {
        self.u64() as u32
    }

    fn i32(&self) -> i32 {
        self.one(&[0, 1, -1, i32::MIN, i32::MAX, self.u32() as i32])
    }

    fn f32(&self) -> f32 {
        self.one(&[
            0.0,
            -0.0,
            f32::NAN,
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::MIN,
            1e-45,
            f32::from_bits(self.u32()),
        ])
    }

    fn text(&self) -> String {
        match self.below(12) {
            0 => "x".repeat(self.one(&[127, 128, 129, 255, 256, 500, 511, 512, 513, 1024, 32_767, 32_769])),
            1 => "é\"\n".repeat(self.one(&[64, 128, 256, 8192, 16_384])),
            2 => format!(
                "{}{}:{}",
                self.one(&["@", "!", "$"]),
                "a".repeat(self.below(300) as usize),
                self.one(&TEXTS)
            ),
            3 => (0..self.below(40)).filter_map(|_| char::from_u32(self.draw() as u32 % 0x11_0000)).collect(),
            4 if self.huge.get() > 0 => {
                self.huge.set(self.huge.get() - 1);
                let piece = self.one(&["x", "\n", "\u{301}", "@"]);
                piece.repeat(HUGE / piece.len())
            }
            5 => format!("{}{}", self.one(&TEXTS), self.one(&TEXTS)),
            _ => self.one(&TEXTS).to_owned(),
        }
    }

    fn bytes(&self) -> Vec<u8> {
        match self.below(3) {
            0 => (0..self.below(600)).map(|_| self.draw() as u8).collect(),
            1 => vec![0xff; self.one(&[0, 1, 512, 262_143, 262_144, 262_145])],
            _ => self.text().into_bytes(),
        }
    }

    /// Of a header: more than 64 KiB of them are a trap.
    fn value(&self) -> Vec<u8> {
        let mut bytes = self.bytes();
        bytes.truncate(3000);
        bytes
    }

    fn body(&self) -> Body {
        let body = self.one(&[Body::Plain, Body::Markdown, Body::Notice]);
        body(self.text())
    }

    fn target(&self) -> outbox::Target {
        match self.below(5) {
            0 | 1 => outbox::Target::Here,
            2 => outbox::Target::Home,
            3 => outbox::Target::Room(self.text()),
            _ => outbox::Target::Direct(self.text()),
        }
    }

    fn message(&self) -> outbox::MessageRef {
        match self.below(3) {
            0 => outbox::MessageRef::Event(self.text()),
            1 => outbox::MessageRef::Queued(self.one(&[0, 1, self.u32()])),
            _ => outbox::MessageRef::Key(self.text()),
        }
    }

    fn scope(&self) -> kv::Scope {
        self.one(&[kv::Scope::Plugin, kv::Scope::Room, kv::Scope::User, kv::Scope::Session])
    }

    /// One call or a few that belong together; whether it went well.
    fn call(&self) -> bool {
        match self.below(37) {
            0..=2 => outbox::send(&self.target(), &self.body()).is_ok(),
            3 => outbox::edit(&self.message(), &self.body()).is_ok(),
            4 => outbox::react(&self.message(), &self.text()).is_ok(),
            5 => outbox::redact(&self.message(), self.some(|| self.text()).as_deref()).is_ok(),
            6 => outbox::set_home(&self.target()).is_ok(),
            7 => outbox::reply_to(self.u32() % 9, &self.message()).is_ok(),
            8 => outbox::name(self.one(&[0, 1, self.u32()]), &self.text()).is_ok(),
            9 => kv::get(self.scope(), &self.text()).is_ok(),
            10 | 11 => kv::set(self.scope(), &self.text(), &self.bytes()).is_ok(),
            12 => kv::delete(self.scope(), &self.text()).is_ok(),
            13 => {
                let after = self.some(|| self.text());
                kv::keys(self.scope(), &self.text(), after.as_deref(), self.u32()).is_ok()
            }
            14 => kv::increment(self.scope(), &self.text(), self.i32()).is_ok(),
            15 | 16 => progress::draft(&self.body()).is_ok(),
            17 => self.llm(),
            18 => directory::commands().is_ok(),
            19 => secrets::has(&self.text()),
            20 => config::get(&self.text()).is_ok(),
            21 => self.says(),
            22 => self.random(),
            23 | 24 => self.clock(),
            25 => self.polls(),
            26 | 27 => self.http().is_some(),
            28..=31 => self.files(),
            32 => self.streams().is_some(),
            33..=35 => self.media(),
            _ => self.sockets(),
        }
    }

    fn media(&self) -> bool {
        let sends =
            |file: &str| outbox::send_file(&self.target(), file, self.some(|| self.body()).as_ref()).is_ok();
        match self.below(4) {
            0 => media::fetch(&self.text()).is_ok(),
            1 => media::read(&self.text(), self.u32(), self.u32()).is_ok(),
            2 => media::append(&self.text(), &self.bytes()).is_ok() || sends(&self.text()),
            _ => {
                let mime = self.some(|| self.text());
                let Ok(file) = media::create(&self.text(), mime.as_deref()) else { return false };
                (0..self.below(3)).all(|_| media::append(&file, &self.bytes()).is_ok()) && sends(&file)
            }
        }
    }

    fn timers(&self) -> bool {
        let rule = self.one(&[schedule::CatchUp::Skip, schedule::CatchUp::Once, schedule::CatchUp::All]);
        let key = self.some(|| self.text());
        let crons = [
            "* * * * *",
            "0 0 31 2 *",
            "*/1 */1 */1 */1 */1",
            "59-0 23-0 * * L",
            "0 0 * * 7#6",
            "* * * * * *",
        ];
        match self.below(4) {
            0 => {
                let far = schedule::now() + f64::from(self.f32());
                schedule::at(key.as_deref(), self.one(&[f64::NAN, -0.0, 1e300, far]), &self.text(), rule)
                    .is_ok()
            }
            1 => {
                let cron = self.some(|| self.text()).unwrap_or_else(|| self.one(&crons).to_owned());
                let zone = self.some(|| self.text()).unwrap_or_else(|| "Europe/Berlin".into());
                schedule::every(key.as_deref(), &cron, &zone, &self.text(), rule).is_ok()
            }
            2 => schedule::cancel(&self.text()).is_ok(),
            _ => schedule::list().is_ok(),
        }
    }

    fn says(&self) -> bool {
        use parlour_plugin::bindings::imports::wasi::logging::logging::{Level, log};
        let Some(left) = self.lines.get().checked_sub(1) else { return false };
        self.lines.set(left);
        let level =
            self.one(&[Level::Trace, Level::Debug, Level::Info, Level::Warn, Level::Error, Level::Critical]);
        log(level, &self.text(), &self.text());
        true
    }

    fn llm(&self) -> bool {
        // One thing that is odd is enough for none to be asked: most requests are to have none.
        let seldom = || self.below(8) == 0;
        let role = || self.one(&[llm::Role::User, llm::Role::Assistant, llm::Role::System, llm::Role::Tool]);
        let turn = || llm::Turn { role: role(), text: self.text(), extra: seldom().then(|| self.text()) };
        let request = llm::Request {
            turns: (0..self.below(4)).map(|_| turn()).collect(),
            model: seldom().then(|| self.text()),
            max_tokens: seldom().then(|| self.u32()),
            temperature: seldom().then(|| self.f32()),
            extra: seldom().then(|| self.text()),
        };
        let Ok(answer) = llm::ask(&request) else { return false };
        answer.outcome();
        let pieces = answer.into_iter().take(self.below(4) as usize).count();
        answer.outcome();
        pieces > 0
    }

    fn random(&self) -> bool {
        let count = self.one(&[0, 1, 511, 65_536, 1_048_577]);
        let drawn =
            if self.below(2) == 0 { random::bytes(count) } else { get_insecure_random_bytes(count.into()) };
        drawn.len() == count as usize && insecure_seed() != (0, 0)
    }

    fn clock(&self) -> bool {
        match self.below(4) {
            0 => subscribe_instant(self.u64()).ready(),
            1 => subscribe_duration(self.u64()).ready(),
            2 => {
                subscribe_duration(self.one(&[0, 1, 1_000_001])).block();
                subscribe_instant(self.one(&[0, monotonic_clock::now()])).block();
                true
            }
            _ => monotonic_clock::resolution() > 0 && wall_clock::resolution().nanoseconds > 0,
        }
    }

    fn polls(&self) -> bool {
        let output = get_stdout();
        let all = [
            subscribe_duration(u64::MAX),
            subscribe_instant(u64::MAX),
            subscribe_duration(0),
            output.subscribe(),
        ];
        let mut asked: Vec<_> = (0..self.below(200)).map(|_| &all[self.below(4) as usize]).collect();
        asked.push(&all[2]);
        !poll(&asked).is_empty()
    }

    fn http(&self) -> Option<()> {
        let fields = Fields::new();
        for _ in 0..self.below(6) {
            let name = match self.below(3) {
                0 => self.text(),
                1 => format!("x-{}", self.below(100)),
                _ => self
                    .one(&["host", "content-length", "connection", "cookie", "te", "range", "a b", "x:"])
                    .to_owned(),
            };
            let name = short(name);
            let value =
                self.one(&[self.value(), b"1".to_vec(), b"\r\nx: y".to_vec(), self.u64().to_string().into()]);
            let _ = fields.append(&name, &value);
            let _ = fields.set(&name, &[value.clone(), value]);
            fields.get(&name);
            fields.has(&name);
            if self.below(3) == 0 {
                let _ = fields.delete(&name);
            }
        }
        let request = OutgoingRequest::new(fields);
        let method = match self.below(4) {
            0 => Method::Other(self.text()),
            1 => self.one(&[Method::Head, Method::Connect, Method::Options, Method::Trace, Method::Patch]),
            _ => self.one(&[Method::Get, Method::Post, Method::Put, Method::Delete]),
        };
        let _ = request.set_method(&method);
        // Most of what is to arrive anywhere is right at once, and the rest odd.
        let scheme = match self.below(8) {
            0 => self.some(|| Scheme::Other(self.text())),
            1 => Some(Scheme::Https),
            _ => Some(Scheme::Http),
        };
        let _ = request.set_scheme(scheme.as_ref());
        let authority = match self.below(8) {
            0 => self.some(|| self.text()),
            1 => {
                let odd = ["[::1", "a@b", "x:99999", ":80", "a b", "0x7f.1", "xn--a", "%41.example", "."];
                Some(self.one(&odd).to_owned())
            }
            _ => Some(self.origin.to_owned()),
        };
        let _ = request.set_authority(authority.as_deref());
        let path = match self.below(3) {
            0 => self.text(),
            1 => format!("/count?{}", self.text()),
            _ => "/count".to_owned(),
        };
        let _ = request.set_path_with_query(self.some(|| path).as_deref());
        let options = RequestOptions::new();
        let _ = options.set_connect_timeout(self.some(|| self.u64()));
        let _ = options.set_first_byte_timeout(self.some(|| self.one(&[0, 1, 1_000_000_000, self.u64()])));
        let _ = options.set_between_bytes_timeout(self.some(|| self.u64()));
        let body = self.some(|| request.body().ok()).flatten();
        let coming = handle(request, self.some(|| options)).ok();
        if let Some(body) = body {
            if let Ok(stream) = body.write() {
                for _ in 0..self.below(3) {
                    self.write(&stream);
                }
            }
            if self.below(2) == 0 {
                let trailers = Fields::new();
                let _ = trailers.append(&short(self.text()), &self.value());
                let _ = OutgoingBody::finish(body, self.some(|| trailers));
            }
        }
        let coming = coming?;
        // Whatever it says, it has so long.
        let pause = subscribe_duration(200_000_000);
        {
            let ready = coming.subscribe();
            poll(&[&ready, &pause]);
        }
        let response = coming.get()?.ok()?.ok()?;
        response.status();
        response.headers().entries();
        let incoming = response.consume().ok()?;
        {
            let stream = incoming.stream().ok()?;
            let _ = stream.read(self.u64() % 100_000);
            let _ = stream.skip(self.u64() % 100_000);
        }
        if self.below(2) == 0 {
            let trailers = IncomingBody::finish(incoming);
            trailers.get();
        }
        Some(())
    }

    /// As much as a stream takes, and not more: that would be a trap.
    fn write(&self, stream: &OutputStream) -> Option<()> {
        let free = stream.check_write().ok()?;
        // While it takes nothing, nothing at all may be written, not even that.
        if free > 0 {
            let mut bytes = self.bytes();
            bytes.truncate(free as usize);
            stream.write(&bytes).ok()?;
        }
        let free = stream.check_write().ok()?;
        if free > 0 {
            stream.write_zeroes(free.min(self.u64())).ok()?;
        }
        let _ = stream.blocking_write_zeroes_and_flush(self.u64() % 4097);
        let _ = stream.flush();
        Some(())
    }

    fn streams(&self) -> Option<()> {
        let output = if self.below(2) == 0 { get_stdout() } else { get_stderr() };
        if let Some(left) = self.lines.get().checked_sub(10) {
            self.lines.set(left);
            // One line, however long it is.
            output.blocking_write_and_flush(self.text().replace('\n', " ").as_bytes().get(..4096)?).ok()?;
            output.blocking_write_and_flush(b"\n").ok()?;
        }
        let input = get_stdin();
        let _ = input.read(self.u64());
        let _ = input.skip(self.u64());
        let _ = output.splice(&input, self.u64());
        environment::get_environment();
        environment::get_arguments();
        environment::initial_cwd();
        Some(())
    }

    fn sockets(&self) -> bool {
        let family = self.one(&[IpAddressFamily::Ipv4, IpAddressFamily::Ipv6]);
        let tcp = create_tcp_socket(family).is_ok();
        let udp = create_udp_socket(family).is_ok();
        let name = resolve_addresses(&instance_network(), &self.text());
        name.is_ok_and(|names| names.resolve_next_address().is_ok()) || (tcp && udp)
    }

    fn path(&self) -> String {
        match self.below(4) {
            0 => self.one(&["a", "b", "c", "d/e", "."]).to_owned(),
            1 => format!("{}/{}", self.one(&["a", "b", "d", ".."]), self.text()),
            2 => "d/".repeat(self.below(3000) as usize),
            _ => self.text(),
        }
    }

    fn time(&self) -> NewTimestamp {
        let timestamp = Datetime { seconds: self.u64(), nanoseconds: self.u32() };
        self.one(&[NewTimestamp::NoChange, NewTimestamp::Now, NewTimestamp::Timestamp(timestamp)])
    }

    fn flags<T>(&self, from: impl Fn(u8) -> T) -> T {
        from(self.one(&[0, 1, 2, 3, self.draw() as u8]))
    }

    fn files(&self) -> bool {
        let Some((folder, _)) = get_directories().into_iter().next() else { return false };
        let how = self.flags(PathFlags::from_bits_truncate);
        match self.below(11) {
            0 => folder.create_directory_at(&self.path()).is_ok(),
            1 => folder.stat_at(how, &self.path()).is_ok(),
            2 => folder.set_times_at(how, &self.path(), self.time(), self.time()).is_ok(),
            3 => folder.rename_at(&self.path(), &folder, &self.path()).is_ok(),
            4 => folder.link_at(how, &self.path(), &folder, &self.path()).is_ok(),
            5 => folder.symlink_at(&self.path(), &self.path()).is_ok(),
            6 => folder.readlink_at(&self.path()).is_ok(),
            7 => folder.unlink_file_at(&self.path()).is_ok(),
            8 => folder.remove_directory_at(&self.path()).is_ok(),
            9 => folder.metadata_hash_at(how, &self.path()).is_ok(),
            _ => {
                let open = self.flags(OpenFlags::from_bits_truncate);
                let flags = self.flags(DescriptorFlags::from_bits_truncate);
                let opened = folder.open_at(how, &self.path(), open, flags);
                opened.is_ok_and(|file| self.file(&file).is_some())
            }
        }
    }

    fn file(&self, file: &Descriptor) -> Option<()> {
        let advice = self.one(&[Advice::Normal, Advice::WillNeed, Advice::DontNeed, Advice::NoReuse]);
        let _ = file.advise(self.u64(), self.u64(), advice);
        let _ = file.write(&self.bytes(), self.one(&[0, 1, self.u64()]));
        let _ = file.read(self.u64(), self.u64());
        let _ = file.set_size(self.u64());
        let _ = file.set_times(self.time(), self.time());
        let _ = (file.get_flags(), file.get_type(), file.stat(), file.metadata_hash());
        let _ = (file.sync(), file.sync_data(), file.is_same_object(file));
        if let Ok(entries) = file.read_directory() {
            while let Ok(Some(_)) = entries.read_directory_entry() {}
        }
        if let Ok(stream) = file.write_via_stream(self.one(&[0, self.u64()])) {
            self.write(&stream);
        }
        if let Ok(stream) = file.append_via_stream() {
            self.write(&stream);
        }
        let stream = file.read_via_stream(self.one(&[0, self.u64()])).ok()?;
        let _ = stream.blocking_read(self.u64());
        let _ = stream.blocking_skip(self.u64());
        Some(())
    }
}

/// The same, of 500 bytes at most.
fn short(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(500));
    text
}

parlour_plugin::export!(Odd: commands, timers);
