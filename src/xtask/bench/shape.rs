//! What the bare loop says in each row, so that it is the same work as the clients do.

use super::bare::Exchange;

/// Nodes of the row with a copied session: the first so many.
const COPIES: usize = 3;

const SMALL: usize = 100;
const LARGE: usize = 10_240;

/// The steps of one pass of `row` in memcached's words; `places` is the port of each of the hundred keys.
pub(super) fn shape(row: &str, ports: &[u16], places: &str) -> Vec<Vec<Exchange>> {
    let to = |node: usize, request: Vec<u8>, end: &'static [u8]| Exchange { node, request, end };
    let get = |key: &str| vec![to(0, format!("get {key}\r\n").into_bytes(), b"END\r\n")];
    let set = |key: &str, length: usize| {
        let mut request = format!("set {key} 0 0 {length}\r\n").into_bytes();
        request.resize(request.len() + length, b'x');
        request.extend_from_slice(b"\r\n");
        vec![to(0, request, b"STORED\r\n")]
    };
    let many = |node_of: &dyn Fn(usize) -> usize| {
        let mut requests = vec![String::new(); ports.len()];
        for key in 0..100 {
            if let Some(request) = requests.get_mut(node_of(key)) {
                request.push_str(&format!(" bench:{key}"));
            }
        }
        let asked = requests
            .iter()
            .enumerate()
            .filter(|(_, keys)| !keys.is_empty());
        asked
            .map(|(node, keys)| to(node, format!("get{keys}\r\n").into_bytes(), b"END\r\n"))
            .collect::<Vec<_>>()
    };
    match row {
        "get" => vec![get("bench:small")],
        "set" => vec![set("bench:small", SMALL)],
        "miss" => vec![get("bench:missing")],
        "get-10k" => vec![get("bench:large")],
        // Under another key: the next get of a client checks what it reads.
        "set-10k" => vec![set("bench:other", LARGE)],
        "multi-1" => vec![many(&|_| 0)],
        "multi-4" => {
            let owners: Vec<usize> = places
                .split_whitespace()
                .map(|port| {
                    ports
                        .iter()
                        .position(|p| p.to_string() == port)
                        .unwrap_or(0)
                })
                .collect();
            vec![many(&|key| owners.get(key).copied().unwrap_or(0))]
        }
        "increment" => vec![vec![to(0, b"incr bench:number 1\r\n".to_vec(), b"\r\n")]],
        "session-copied" => session_copied(),
        "set-copied" => {
            let mut request = format!("ms bench:copy {SMALL} T0 c\r\n").into_bytes();
            request.resize(request.len() + SMALL, b'x');
            request.extend_from_slice(b"\r\n");
            vec![vec![
                to(0, request.clone(), b"\r\n"),
                to(1, request, b"\r\n"),
            ]]
        }
        "get-copied" => vec![vec![to(0, b"mg bench:copy v c f t\r\n".to_vec(), b"x\r\n")]],
        // The least there is to it: read, then write. A lock comes on top.
        _ => vec![get("bench:small"), set("bench:other", SMALL)],
    }
}

/// The same in Redis' words; empty where the row has no fair match. `places` is as for [`shape`].
pub(super) fn redis_shape(row: &str, ports: &[u16], places: &str) -> Vec<Vec<Exchange>> {
    let say_to = |node: usize, words: &[&str], end: &'static [u8]| {
        let mut request = format!("*{}\r\n", words.len());
        for word in words {
            request.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        Exchange {
            node,
            request: request.into_bytes(),
            end,
        }
    };
    let say = |words: &[&str], end| vec![say_to(0, words, end)];
    let (small, large) = ("x".repeat(SMALL), "x".repeat(LARGE));
    match row {
        "get" => vec![say(&["GET", "bench:small"], b"x\r\n")],
        "set" => vec![say(&["SET", "bench:small", &small], b"OK\r\n")],
        "miss" => vec![say(&["GET", "bench:missing"], b"-1\r\n")],
        "get-10k" => vec![say(&["GET", "bench:large"], b"\r\n")],
        "set-10k" => vec![say(&["SET", "bench:other", &large], b"OK\r\n")],
        "multi-1" => {
            let keys: Vec<String> = (0..100).map(|key| format!("bench:{key}")).collect();
            let words: Vec<&str> = std::iter::once("MGET")
                .chain(keys.iter().map(String::as_str))
                .collect();
            // The last of a hundred values ends as the others do: the loop counts on one read, as 12 KB allow it.
            vec![say(&words, b"x\r\n")]
        }
        "multi-4" => {
            let mut asked = vec![vec!["MGET".to_owned()]; ports.len()];
            for (key, port) in places.split_whitespace().enumerate() {
                let owner = ports.iter().position(|p| p.to_string() == port);
                if let Some(words) = asked.get_mut(owner.unwrap_or(0)) {
                    words.push(format!("bench:{key}"));
                }
            }
            let asked = asked
                .iter()
                .enumerate()
                .filter(|(_, words)| words.len() > 1);
            vec![
                asked
                    .map(|(node, words)| {
                        let words: Vec<&str> = words.iter().map(String::as_str).collect();
                        say_to(node, &words, b"x\r\n")
                    })
                    .collect(),
            ]
        }
        "increment" => vec![say(&["INCR", "bench:number"], b"\r\n")],
        "session" | "session-kept" => vec![
            say(&["GET", "bench:small"], b"x\r\n"),
            say(&["SET", "bench:other", &small], b"OK\r\n"),
        ],
        _ => Vec::new(),
    }
}

/// A session on three nodes: each is asked for the session and what it says of itself, then each stores it. `mn`
/// ends a pipeline of meta commands with a line of its own.
fn session_copied() -> Vec<Vec<Exchange>> {
    let key = "bench:copied";
    let to_all = |request: Vec<u8>| -> Vec<Exchange> {
        (0..COPIES)
            .map(|node| Exchange {
                node,
                request: request.clone(),
                end: b"MN\r\n",
            })
            .collect()
    };
    let read = format!("mg ~r:bench v c u\r\nmg {key} v c f s t N30\r\nmn\r\n");
    let mut write = format!("ms {key} {SMALL} T1440 c\r\n").into_bytes();
    write.resize(write.len() + SMALL, b'x');
    write.extend_from_slice(b"\r\nmg ~r:bench v c u\r\nmn\r\n");
    vec![to_all(read.into_bytes()), to_all(write)]
}
