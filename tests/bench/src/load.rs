// SPDX-License-Identifier: GPL-2.0

//! Asks a server at a fixed rate, and prints how long each answer took.
//!
//! usage: ksm_v_load redis|http PORT RATE SECONDS
//!
//! Requests have a schedule, which does not wait for answers. The time of an answer counts from when its request
//! was due. So a server that stands still delays all requests that are due meanwhile, as it delays its users:
//! without "coordinated omission" (Tene, "How NOT to Measure Latency"). With a rate of 0 each request follows the
//! answer before, and the times count from when it was sent.
//!
//! Prints a line: the number of requests per second, and then the time of each answer in microseconds.

use std::io;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Read;
use std::io::Write;
use std::net::TcpStream;
use std::process::ExitCode;
use std::time::Duration;
use std::time::Instant;

use guest::rng;
use guest::rng::Rng;

/// Number of keys that the Redis server has, `key0` and so on.
const KEYS: u64 = 100_000;
/// Every tenth request of Redis writes.
const WRITES: u64 = 10;
/// Bytes of a value that is written.
const VALUE_BYTES: usize = 500;

/// What to ask.
#[derive(Clone, Copy)]
enum Protocol {
    Redis,
    Http,
}

/// A connection to a server.
struct Client {
    protocol: Protocol,
    answers: BufReader<TcpStream>,
    rng: Rng,
}

impl Client {
    fn connect(protocol: Protocol, port: u16) -> io::Result<Self> {
        let connection = TcpStream::connect(("127.0.0.1", port))?;
        connection.set_nodelay(true)?;
        Ok(Client {
            protocol,
            answers: BufReader::new(connection),
            rng: Rng::new(rng::seed()),
        })
    }

    /// Sends a request and reads the answer.
    fn ask(&mut self) -> io::Result<()> {
        let request = self.request();
        self.answers.get_mut().write_all(request.as_bytes())?;
        match self.protocol {
            Protocol::Redis => self.read_redis(),
            Protocol::Http => self.read_http(),
        }
    }

    fn request(&mut self) -> String {
        match self.protocol {
            Protocol::Http => "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(),
            Protocol::Redis => {
                let key = self.rng.below(KEYS);
                if self.rng.below(WRITES) == 0 {
                    let value = self.rng.below(u64::MAX);
                    format!("SET key{key} {value:0width$}\r\n", width = VALUE_BYTES)
                } else {
                    format!("GET key{key}\r\n")
                }
            }
        }
    }

    /// An answer is a line, or a line with the length of what follows.
    fn read_redis(&mut self) -> io::Result<()> {
        let line = self.line()?;
        let length = match line.split_at_checked(1) {
            Some(("+", _)) => return Ok(()),
            Some(("$", length)) => length.parse::<usize>().ok(),
            _ => None,
        };
        match length {
            Some(length) => self.skip(length + 2),
            None => Err(io::Error::other(format!("Redis answered {line:?}"))),
        }
    }

    /// An answer has a header that tells its length.
    fn read_http(&mut self) -> io::Result<()> {
        let mut length = 0;
        loop {
            let line = self.line()?.to_ascii_lowercase();
            if line.is_empty() {
                return self.skip(length);
            }
            if let Some(found) = line.strip_prefix("content-length:") {
                length = found.trim().parse().map_err(io::Error::other)?;
            }
        }
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.answers.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end().to_owned())
    }

    fn skip(&mut self, length: usize) -> io::Result<()> {
        self.answers.read_exact(&mut vec![0; length])
    }
}

/// Asks for this long. Returns the time of each answer.
fn ask_all(client: &mut Client, rate: u32, time: Duration) -> io::Result<Vec<Duration>> {
    let (start, mut times) = (Instant::now(), Vec::new());
    loop {
        let due = match Duration::from_secs(1).checked_div(rate) {
            Some(interval) => interval * times.len() as u32,
            None => start.elapsed(),
        };
        if due >= time {
            return Ok(times);
        }
        std::thread::sleep(due.saturating_sub(start.elapsed()));
        client.ask()?;
        times.push(start.elapsed() - due);
    }
}

/// What the arguments say.
fn parse(arguments: &[String]) -> Option<(Protocol, u16, u32, Duration)> {
    let [protocol, port, rate, seconds] = arguments else {
        return None;
    };
    let protocol = match protocol.as_str() {
        "redis" => Protocol::Redis,
        "http" => Protocol::Http,
        _ => return None,
    };
    let seconds = Duration::try_from_secs_f64(seconds.parse().ok()?).ok()?;
    Some((protocol, port.parse().ok()?, rate.parse().ok()?, seconds))
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some((protocol, port, rate, time)) = parse(&arguments) else {
        eprintln!("usage: ksm_v_load redis|http PORT RATE SECONDS");
        return ExitCode::from(2);
    };
    let start = Instant::now();
    let times =
        Client::connect(protocol, port).and_then(|mut client| ask_all(&mut client, rate, time));
    match times {
        Ok(times) => {
            print!("{:.1}", times.len() as f64 / start.elapsed().as_secs_f64());
            times
                .iter()
                .for_each(|time| print!(" {}", time.as_micros()));
            println!();
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("ksm_v_load: {error}");
            ExitCode::FAILURE
        }
    }
}
