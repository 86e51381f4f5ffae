//! The yardstick: write the request, read until the end of the answer, and nothing else.
//!
//! It says the same words to the same nodes as the client it stands beside, over blocking sockets. It reads nothing
//! out of the answer and would notice no error, so no client can be faster; how near one comes is its share.

use crate::{Stop, failed};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

/// One step of a loop: these bytes to that connection, and how its answer ends.
#[derive(Clone, Debug)]
pub(crate) struct Exchange {
    /// Index of the connection.
    pub(crate) node: usize,
    /// What is written.
    pub(crate) request: Vec<u8>,
    /// The last bytes of the answer.
    pub(crate) end: &'static [u8],
}

/// A loop's connections.
pub(crate) struct Bare {
    ports: Vec<u16>,
    nodes: Vec<TcpStream>,
    buffer: Vec<u8>,
}

impl Bare {
    /// Connects to the ports on loopback.
    ///
    /// # Errors
    /// When one does not answer.
    pub(crate) fn connect(ports: &[u16]) -> Result<Bare, Stop> {
        let nodes = ports
            .iter()
            .map(|port| connect(*port))
            .collect::<Result<_, _>>();
        Ok(Bare {
            ports: ports.to_vec(),
            nodes: nodes.map_err(|why| failed("connecting the bare loop", why))?,
            buffer: vec![0; 1 << 20],
        })
    }

    /// Runs the steps `count` times. Steps of one group go out together before their answers are read. With `fresh`
    /// each pass has a connection of its own to the first node.
    ///
    /// # Errors
    /// When a connection breaks.
    pub(crate) fn run(
        &mut self,
        groups: &[Vec<Exchange>],
        fresh: bool,
        count: u32,
    ) -> Result<Duration, Stop> {
        let start = Instant::now();
        for _ in 0..count {
            if let (true, Some(port), Some(node)) =
                (fresh, self.ports.first(), self.nodes.first_mut())
            {
                *node = connect(*port).map_err(|why| failed("connecting the bare loop", why))?;
            }
            for group in groups {
                self.group(group)
                    .map_err(|why| failed("the bare loop", why))?;
            }
        }
        Ok(start.elapsed())
    }

    fn group(&mut self, group: &[Exchange]) -> std::io::Result<()> {
        for step in group {
            if let Some(node) = self.nodes.get_mut(step.node) {
                node.write_all(&step.request)?;
            }
        }
        for step in group {
            let Some(node) = self.nodes.get_mut(step.node) else {
                continue;
            };
            let mut filled = 0;
            while !self
                .buffer
                .get(..filled)
                .is_some_and(|answer| answer.ends_with(step.end))
            {
                let room = self.buffer.get_mut(filled..).unwrap_or_default();
                match node.read(room)? {
                    0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                    read => filled += read,
                }
            }
        }
        Ok(())
    }
}

fn connect(port: u16) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    Ok(stream)
}
