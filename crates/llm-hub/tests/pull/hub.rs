//! A hub on this machine that misbehaves as it is told: over plain sockets, so that it can break any rule of HTTP.

#![allow(
    clippy::unwrap_used,
    dead_code,
    unreachable_pub,
    reason = "a test fails where it meets the unexpected; each test uses a part"
)]

use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use sha1::Sha1;
use sha2::{Digest, Sha256};

/// The commit that a hub's files are of.
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A file of a repository.
#[derive(Clone)]
pub struct HubFile {
    pub name: String,
    pub bytes: Vec<u8>,
    /// Large files have another sum than small ones.
    pub is_large: bool,
}

impl HubFile {
    pub fn small(name: &str, bytes: &[u8]) -> Self {
        let (name, bytes) = (name.to_owned(), bytes.to_vec());
        HubFile {
            name,
            bytes,
            is_large: false,
        }
    }

    pub fn large(name: &str, bytes: &[u8]) -> Self {
        HubFile {
            is_large: true,
            ..HubFile::small(name, bytes)
        }
    }

    pub fn sum(&self) -> String {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        match self.is_large {
            true => hex(&Sha256::digest(&self.bytes)),
            false => {
                let mut sum = Sha1::new();
                sum.update(format!("blob {}\0", self.bytes.len()));
                sum.update(&self.bytes);
                hex(&sum.finalize())
            }
        }
    }

    /// The file in the hub's list.
    fn listed(&self) -> String {
        let (name, size, sum) = (&self.name, self.bytes.len(), self.sum());
        match self.is_large {
            true => format!(
                r#"{{"rfilename":"{name}","size":{size},"blobId":"{}","lfs":{{"sha256":"{sum}","size":{size},"pointerSize":134}}}}"#,
                "0".repeat(40)
            ),
            false => format!(r#"{{"rfilename":"{name}","size":{size},"blobId":"{sum}"}}"#),
        }
    }
}

/// What goes wrong.
#[derive(Clone)]
pub enum Fault {
    /// Another status, with these header lines and this body.
    Status(u16, &'static str, &'static str),
    /// So many bytes of the body, and then the connection's end.
    Cut(usize),
    /// A `Content-Length` that is longer by so many bytes than what comes.
    Longer(usize),
    /// The same, of the whole file, whatever part was asked for.
    WholeLonger(usize),
    /// A byte that is another one.
    Corrupt,
    /// So long nothing, after the headers.
    Slow(Duration),
    /// The whole file, whatever part was asked for.
    NoRanges,
    /// The file is elsewhere: there, by the same path.
    Redirect(String),
    /// Another commit in the answer's headers.
    Commit(&'static str),
    /// Another part than was asked for.
    OtherRange,
    /// A list without lengths and sums.
    Bare,
}

/// A fault that answers have whose request's path has a text in it.
#[derive(Clone)]
pub struct Rule {
    pub path: &'static str,
    /// So many times.
    pub times: usize,
    pub fault: Fault,
}

impl Rule {
    pub fn once(path: &'static str, fault: Fault) -> Self {
        Rule {
            path,
            times: 1,
            fault,
        }
    }

    pub fn always(path: &'static str, fault: Fault) -> Self {
        Rule {
            times: usize::MAX,
            ..Rule::once(path, fault)
        }
    }
}

/// A request that came.
#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub range: Option<(usize, usize)>,
    pub token: Option<String>,
    /// Connection that it came over, counted.
    pub connection: usize,
}

/// A hub with one repository, `org/name`, that ends with its value.
pub struct Hub {
    address: SocketAddr,
    state: Arc<State>,
}

struct State {
    files: Vec<HubFile>,
    rules: Mutex<Vec<Rule>>,
    requests: Mutex<Vec<Request>>,
    is_over: Mutex<bool>,
}

impl Hub {
    pub fn start(files: Vec<HubFile>, rules: Vec<Rule>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            files,
            rules: Mutex::new(rules),
            requests: Mutex::default(),
            is_over: Mutex::default(),
        });
        let serving = Arc::clone(&state);
        thread::spawn(move || {
            for (connection, stream) in listener.incoming().flatten().enumerate() {
                if *serving.is_over.lock().unwrap() {
                    return;
                }
                let state = Arc::clone(&serving);
                // A client that goes away is no error.
                thread::spawn(move || state.serve(&stream, connection));
            }
        });
        Hub { address, state }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn requests(&self) -> Vec<Request> {
        self.state.requests.lock().unwrap().clone()
    }

    /// Requests for files, not for the list.
    pub fn n_fetches(&self) -> usize {
        let requests = self.requests();
        requests
            .iter()
            .filter(|request| request.path.contains("/resolve/"))
            .count()
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        *self.state.is_over.lock().unwrap() = true;
        let _ = TcpStream::connect(self.address);
    }
}

impl State {
    fn serve(&self, stream: &TcpStream, connection: usize) -> Option<()> {
        // Answers are of two writes.
        stream.set_nodelay(true).ok()?;
        let mut reader = BufReader::new(stream);
        loop {
            let request = read_request(&mut reader, connection)?;
            self.requests.lock().unwrap().push(request.clone());
            self.answer(stream, &request)?;
        }
    }

    /// Answers a request; `None` ends the connection.
    fn answer(&self, mut stream: &TcpStream, request: &Request) -> Option<()> {
        let fault = self.fault(&request.path);
        let mut commit = COMMIT;
        match &fault {
            Some(Fault::Status(status, headers, body)) => {
                let length = body.len();
                write!(
                    stream,
                    "HTTP/1.1 {status} No\r\n{headers}Content-Length: {length}\r\n\r\n{body}"
                )
                .ok()?;
                return Some(());
            }
            Some(Fault::Redirect(to)) => {
                let file = self
                    .file(&request.path)
                    .map(HubFile::sum)
                    .unwrap_or_default();
                let size = self.file(&request.path).map_or(0, |file| file.bytes.len());
                let path = &request.path;
                write!(
                    stream,
                    "HTTP/1.1 302 Found\r\nLocation: {to}{path}\r\nX-Repo-Commit: {commit}\r\nX-Linked-Etag: \"{file}\"\r\nX-Linked-Size: {size}\r\nContent-Length: 0\r\n\r\n"
                )
                .ok()?;
                return Some(());
            }
            Some(Fault::Commit(other)) => commit = other,
            _ => {}
        }
        if request.path.starts_with("/api/models/org/name/revision/") {
            let files = self.files.iter().map(|file| match fault {
                Some(Fault::Bare) => format!(r#"{{"rfilename":"{}"}}"#, file.name),
                _ => file.listed(),
            });
            let body = format!(
                r#"{{"sha":"{commit}","siblings":[{}]}}"#,
                files.collect::<Vec<_>>().join(",")
            );
            let length = body.len();
            write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}"
            )
            .ok()?;
            return Some(());
        }
        if request.path.starts_with("/api/models/") {
            let code = "X-Error-Code: RepoNotFound";
            let answer = format!("HTTP/1.1 404 No\r\n{code}\r\nContent-Length: 0\r\n\r\n");
            stream.write_all(answer.as_bytes()).ok()?;
            return Some(());
        }
        let Some(file) = self.file(&request.path) else {
            write!(
                stream,
                "HTTP/1.1 404 No\r\nX-Error-Code: EntryNotFound\r\nContent-Length: 0\r\n\r\n"
            )
            .ok()?;
            return Some(());
        };
        let size = file.bytes.len();
        let range = request
            .range
            .filter(|_| !matches!(fault, Some(Fault::NoRanges | Fault::WholeLonger(_))));
        let (begin, end) = range.map_or((0, size), |(begin, end)| (begin, end.min(size)));
        let mut body = file.bytes[begin..end].to_vec();
        let mut length = body.len();
        let shift = usize::from(matches!(fault, Some(Fault::OtherRange)));
        match fault {
            Some(Fault::Longer(more) | Fault::WholeLonger(more)) => length += more,
            Some(Fault::Corrupt) => body[0] ^= 1,
            Some(Fault::Cut(at)) => body.truncate(at),
            _ => {}
        }
        let status = match range {
            Some(_) => format!(
                "206 Partial\r\nContent-Range: bytes {}-{}/{size}",
                begin + shift,
                end + shift - 1
            ),
            None => "200 OK".to_owned(),
        };
        let sum = file.sum();
        write!(
            stream,
            "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nX-Repo-Commit: {commit}\r\nETag: \"{sum}\"\r\n\r\n"
        )
        .ok()?;
        if let Some(Fault::Slow(pause)) = fault {
            thread::sleep(pause);
        }
        if request.method == "HEAD" {
            return Some(());
        }
        stream.write_all(&body).ok()?;
        if body.len() < length {
            stream.shutdown(Shutdown::Both).ok()?;
            return None;
        }
        Some(())
    }

    fn file(&self, path: &str) -> Option<&HubFile> {
        let (_, name) = path.strip_prefix("/org/name/resolve/")?.split_once('/')?;
        self.files.iter().find(|file| file.name == name)
    }

    /// The fault that is due.
    fn fault(&self, path: &str) -> Option<Fault> {
        let mut rules = self.rules.lock().unwrap();
        let rule = rules
            .iter_mut()
            .find(|rule| rule.times > 0 && path.contains(rule.path))?;
        rule.times -= 1;
        Some(rule.fault.clone())
    }
}

fn read_request(reader: &mut BufReader<&TcpStream>, connection: usize) -> Option<Request> {
    let mut line = String::new();
    let mut next = || {
        line.clear();
        let n = reader.read_line(&mut line).ok()?;
        (n > 0).then(|| line.trim_end().to_owned())
    };
    let first = next()?;
    let mut words = first.split(' ');
    let mut request = Request {
        method: words.next()?.to_owned(),
        path: words.next()?.to_owned(),
        range: None,
        token: None,
        connection,
    };
    loop {
        let line = next()?;
        let Some((name, value)) = line.split_once(": ") else {
            return Some(request);
        };
        match name.to_ascii_lowercase().as_str() {
            "authorization" => request.token = Some(value.to_owned()),
            "range" => {
                let (begin, last) = value.strip_prefix("bytes=")?.split_once('-')?;
                request.range = Some((begin.parse().ok()?, last.parse::<usize>().ok()? + 1));
            }
            _ => {}
        }
    }
}
