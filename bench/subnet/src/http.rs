//! Requests over one HTTP/1.1 connection that stays open, one after the other.
use std::{io, net::SocketAddr};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// The most bytes of an answer that are read.
const ANSWER_BYTES_MAX: usize = 4 << 20;

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its body.
    pub body: Vec<u8>,
}

/// A connection.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// What the system says.
    pub async fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            received: Vec::with_capacity(8 << 10),
        })
    }

    /// Sends a whole request, as [`post`] or [`get`] makes it, and reads the answer.
    ///
    /// # Errors
    /// What the system says, or that this is not an answer with a length.
    pub async fn ask(&mut self, request: &[u8]) -> io::Result<Answer> {
        self.stream.write_all(request).await?;
        let (status, length, start) = loop {
            if let Some(head) = head(&self.received)? {
                break head;
            }
            self.receive().await?;
        };
        let end = start + length;
        if end > ANSWER_BYTES_MAX {
            return Err(malformed("a longer answer than expected"));
        }
        while self.received.len() < end {
            self.receive().await?;
        }
        let body = self.received[start..end].to_vec();
        self.received.drain(..end);
        Ok(Answer { status, body })
    }

    async fn receive(&mut self) -> io::Result<()> {
        match self.stream.read_buf(&mut self.received).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

/// Status, length of the body and where it begins, once the head is whole.
fn head(received: &[u8]) -> io::Result<Option<(u16, usize, usize)>> {
    let Some(end) = received.windows(4).position(|bytes| bytes == b"\r\n\r\n") else {
        return Ok(None);
    };
    let text = std::str::from_utf8(&received[..end]).map_err(|_| malformed("a head of text"))?;
    let mut lines = text.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1));
    let status = status.and_then(|status| status.parse().ok());
    let length = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let is_length = name.eq_ignore_ascii_case("content-length");
        is_length.then(|| value.trim().parse().ok())?
    });
    match (status, length) {
        (Some(status), Some(length)) => Ok(Some((status, length, end + 4))),
        _ => Err(malformed("an answer with a status and a length")),
    }
}

fn malformed(expected: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("not {expected}"))
}

/// A request with a body.
#[must_use]
pub fn post(path: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/cbor\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// A request without one.
#[must_use]
pub fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").into_bytes()
}
