//! A web server that answers as badly as it is asked to.

use std::{
    io::Write as _,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// It serves until it is dropped.
pub struct Web {
    pub address: SocketAddr,
    heard: Arc<Mutex<Vec<String>>>,
    connections: Arc<AtomicUsize>,
    serving: JoinHandle<()>,
}

impl Web {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (heard, connections) = (Arc::<Mutex<Vec<String>>>::default(), Arc::<AtomicUsize>::default());
        let (hears, counts) = (heard.clone(), connections.clone());
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counts.fetch_add(1, Relaxed);
                let hears = hears.clone();
                tokio::spawn(async move { drop(serve(stream, &hears).await) });
            }
        });
        Self { address, heard, connections, serving }
    }

    /// `http://127.0.0.1:PORT`
    pub fn origin(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Method and path of each request so far.
    pub fn heard(&self) -> Vec<String> {
        self.heard.lock().unwrap().clone()
    }

    /// How many connections there were.
    pub fn connections(&self) -> usize {
        self.connections.load(Relaxed)
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(stream: TcpStream, heard: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if stream.read_line(&mut head).await? == 0 {
                return Ok(());
            }
        }
        let line = head.lines().next().unwrap_or_default().to_owned();
        let mut words = line.split(' ');
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default().to_owned());
        heard.lock().unwrap().push(format!("{method} {path}"));
        let body = body(&mut stream, &head).await?;
        answer(stream.get_mut(), &path, &head, body).await?;
    }
}

/// How many bytes came.
async fn body(stream: &mut BufReader<TcpStream>, head: &str) -> std::io::Result<usize> {
    let lower = head.to_ascii_lowercase();
    if let Some((_, rest)) = lower.split_once("content-length: ") {
        let length = rest.lines().next().unwrap_or_default().parse().unwrap_or_default();
        stream.read_exact(&mut vec![0; length]).await?;
        return Ok(length);
    }
    let mut all = 0;
    while lower.contains("transfer-encoding: chunked") {
        let mut size = String::new();
        stream.read_line(&mut size).await?;
        let size = usize::from_str_radix(size.trim(), 16).unwrap_or_default();
        stream.read_exact(&mut vec![0; size + 2]).await?;
        if size == 0 {
            break;
        }
        all += size;
    }
    Ok(all)
}

fn header<'a>(head: &'a str, name: &str) -> &'a str {
    let line = head.lines().find_map(|line| {
        let (of, value) = line.split_once(": ")?;
        of.eq_ignore_ascii_case(name).then_some(value)
    });
    line.unwrap_or_default()
}

async fn answer(stream: &mut TcpStream, path: &str, head: &str, came: usize) -> std::io::Result<()> {
    let secret = header(head, "authorization").trim_start_matches("Bearer ");
    let plain = |body: Vec<u8>, more: String| {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n{more}\r\n", body.len());
        [head.into_bytes(), body].concat()
    };
    let text = |body: String| plain(body.into_bytes(), String::new());
    let whole = match path.split('?').next().unwrap_or_default() {
        "/echo" => text(head.to_owned()),
        "/count" => text(format!("{came} bytes came")),
        "/base64" => text(STANDARD.encode(format!("you: {secret} said so"))),
        "/basic" => {
            let decoded = STANDARD.decode(secret.trim_start_matches("Basic ")).unwrap_or_default();
            let decoded = String::from_utf8_lossy(&decoded).into_owned();
            let (user, password) = decoded.split_once(':').unwrap_or_default();
            let again = STANDARD.encode(format!("x{decoded}"));
            text(
                serde_json::json!({ "all": decoded, "user": user, "pass": password, "again": again })
                    .to_string(),
            )
        }
        "/percent" => text(
            secret.bytes().flat_map(|byte| format!("%{byte:02x}").into_bytes()).map(char::from).collect(),
        ),
        "/json" => text(serde_json::json!({ "you": secret }).to_string().replace('/', "\\/")),
        "/log" => text(serde_json::json!({ "you": serde_json::json!([secret]).to_string() }).to_string()),
        "/gzip" => {
            let mut gzip = flate2::write::GzEncoder::new(vec![], flate2::Compression::default());
            gzip.write_all(head.as_bytes())?;
            plain(gzip.finish()?, "Content-Encoding: gzip\r\n".into())
        }
        "/deflate" => {
            let mut deflate = flate2::write::ZlibEncoder::new(vec![], flate2::Compression::default());
            deflate.write_all(head.as_bytes())?;
            plain(deflate.finish()?, "Content-Encoding: deflate\r\n".into())
        }
        "/header" => plain(vec![], format!("X-You: {secret}\r\n")),
        "/redirect" => {
            format!("HTTP/1.1 302 Found\r\nLocation: /echo?token={secret}\r\nContent-Length: 0\r\n\r\n")
                .into_bytes()
        }
        "/inside" => {
            let to = path.split_once('?').map_or("", |(_, to)| to);
            format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n").into_bytes()
        }
        "/refused" => {
            format!("HTTP/1.1 401 You, {secret}, may not\r\nContent-Length: {}\r\n\r\n{secret}", secret.len())
                .into_bytes()
        }
        "/cut" => format!(
            "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{}",
            &secret[..secret.len().saturating_sub(2)]
        )
        .into_bytes(),
        "/range" => {
            text(format!("range {:?}, encoding {:?}", header(head, "range"), header(head, "accept-encoding")))
        }
        "/pieces" => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await?;
            for byte in format!("you: {secret}.").bytes() {
                stream.write_all(&[b"1\r\n", &[byte][..], b"\r\n"].concat()).await?;
                stream.flush().await?;
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            b"0\r\n\r\n".to_vec()
        }
        "/endless" => {
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
            loop {
                stream.write_all(&[b'x'; 65_536]).await?;
            }
        }
        "/heads" => {
            let many: String =
                (0..80).map(|number| format!("X-{number}: {}\r\n", "x".repeat(1000))).collect();
            format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n{many}\r\n").into_bytes()
        }
        "/silent" => std::future::pending().await,
        "/wait" => {
            let seconds = path.split_once('?').map_or("", |(_, seconds)| seconds).parse().unwrap();
            tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
            text("it came".into())
        }
        _ => b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_vec(),
    };
    stream.write_all(&whole).await?;
    if path.starts_with("/cut") {
        stream.shutdown().await?;
    }
    Ok(())
}
