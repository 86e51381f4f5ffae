//! A FastCGI client, just large enough to ask php-fpm for one page.
//!
//! One request per connection, no keep-alive, no multiplexing.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// What a web server answered.
#[derive(Clone, Debug, Default)]
pub struct Reply {
    /// The status code; 200 when the page set none.
    pub status: u16,
    /// Header lines in order.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// What the page wrote to its error stream (FastCGI only).
    pub stderr: Vec<u8>,
}

impl Reply {
    /// The body as text, trimmed at its end.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).trim_end().to_string()
    }

    /// The first header of this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(header, _)| header.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// Splits a CGI or HTTP answer into header lines and body.
    pub(crate) fn parse(bytes: &[u8]) -> Reply {
        let split = bytes.windows(4).position(|window| window == b"\r\n\r\n");
        let (head, body) =
            split.map_or((&bytes[..0], bytes), |at| (&bytes[..at], &bytes[at + 4..]));
        let mut reply = Reply {
            status: 200,
            body: body.to_vec(),
            ..Reply::default()
        };
        for line in String::from_utf8_lossy(head).lines() {
            if let Some(status) = line
                .strip_prefix("HTTP/1.1 ")
                .or(line.strip_prefix("HTTP/1.0 "))
            {
                reply.status = status
                    .get(..3)
                    .and_then(|code| code.parse().ok())
                    .unwrap_or(0);
            } else if let Some((name, value)) = line.split_once(':') {
                let value = value.trim().to_string();
                if name.eq_ignore_ascii_case("Status") {
                    reply.status = value
                        .get(..3)
                        .and_then(|code| code.parse().ok())
                        .unwrap_or(0);
                }
                reply.headers.push((name.to_string(), value));
            }
        }
        reply
    }
}

const BEGIN: u8 = 1;
const END: u8 = 3;
const PARAMS: u8 = 4;
const STDIN: u8 = 5;
const STDOUT: u8 = 6;
const STDERR: u8 = 7;

/// Asks the php-fpm on `port` with these CGI variables and this body.
///
/// # Errors
/// Any fault of the connection, and its end before the answer was whole.
pub fn ask(
    port: u16,
    variables: &[(&str, String)],
    body: &[u8],
    limit: Duration,
) -> std::io::Result<Reply> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(limit))?;
    let mut request = record(BEGIN, &[0, 1, 0, 0, 0, 0, 0, 0]); // the responder role, close afterwards
    let mut parameters = Vec::new();
    for (name, value) in variables {
        length(&mut parameters, name.len());
        length(&mut parameters, value.len());
        parameters.extend_from_slice(name.as_bytes());
        parameters.extend_from_slice(value.as_bytes());
    }
    for (kind, content) in [(PARAMS, parameters.as_slice()), (STDIN, body)] {
        for piece in content.chunks(65535) {
            request.extend(record(kind, piece));
        }
        request.extend(record(kind, &[]));
    }
    stream.write_all(&request)?;

    let (mut output, mut errors) = (Vec::new(), Vec::new());
    loop {
        let mut head = [0; 8];
        stream.read_exact(&mut head)?;
        let size = usize::from(u16::from_be_bytes([head[4], head[5]]));
        let mut content = vec![0; size + usize::from(head[6])];
        stream.read_exact(&mut content)?;
        content.truncate(size);
        match head[1] {
            STDOUT => output.extend(content),
            STDERR => errors.extend(content),
            END => break,
            _ => {}
        }
    }
    let mut reply = Reply::parse(&output);
    reply.stderr = errors;
    Ok(reply)
}

fn record(kind: u8, content: &[u8]) -> Vec<u8> {
    let size = u16::try_from(content.len())
        .expect("a record holds at most 65535 bytes")
        .to_be_bytes();
    let mut bytes = vec![1, kind, 0, 1, size[0], size[1], 0, 0];
    bytes.extend_from_slice(content);
    bytes
}

/// Lengths below 128 take one byte, others four with the top bit set.
fn length(out: &mut Vec<u8>, size: usize) {
    match u8::try_from(size) {
        Ok(small) if small < 128 => out.push(small),
        _ => out.extend_from_slice(
            &(u32::try_from(size).expect("a short value") | 0x8000_0000).to_be_bytes(),
        ),
    }
}
