// SPDX-License-Identifier: GPL-2.0

//! The peer's side of the connection: reads requests, executes them and answers.
//!
//! It uses little memory of its own, so little of it is merged.

use std::io;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Write;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::process::ExitCode;
use std::time::Duration;

use super::attack;
use super::bus;
use super::churn;
use super::held;
use super::machine::Machine;
use super::memory;
use super::memory::Kind;
use super::pins::Pinned;
use super::pins::Restoring;
use super::pins::Spliced;
use super::pins::Watched;
use super::spawn;
use super::spawn::check;
use super::storm;
use super::tags;
use crate::memory::content::Ids;
use crate::memory::content::PAGE_SIZE;
use crate::process::child;
use crate::process::task;
use crate::Span;

/// The first argument of a program that becomes a peer; the second one is the socket's name.
pub const ARGUMENT: &str = "--peer";

/// The only argument of a program that exits at once.
pub const NOTHING: &str = "--nothing";

/// The number of stack pages that a test may use.
pub const STACK_PAGES: u64 = 32;
const STACK_BYTES: usize = (STACK_PAGES * PAGE_SIZE) as usize;

/// The answer to a request: a number, or the text of an error.
type Answer = Result<u64, String>;

/// The state of a peer.
struct Peer {
    socket: String,
    stream: BufReader<UnixStream>,
    spliced: Option<Spliced>,
    pinned: Option<Pinned>,
    watched: Option<Watched>,
    restoring: Option<Restoring>,
    machine: Option<Machine>,
}

/// What a program does that becomes a peer: serves requests on the socket, and prints why it failed.
pub fn main(socket: &str) -> ExitCode {
    match run(socket) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("process {}: {error}", std::process::id());
            ExitCode::FAILURE
        }
    }
}

/// Connects to the socket and serves requests until it closes.
fn run(socket: &str) -> io::Result<()> {
    die_with_parent()?;
    Peer {
        socket: socket.to_owned(),
        stream: connect(socket)?,
        spliced: None,
        pinned: None,
        watched: None,
        restoring: None,
        machine: None,
    }
    .serve()
}

fn connect(socket: &str) -> io::Result<BufReader<UnixStream>> {
    let address = SocketAddr::from_abstract_name(socket)?;
    let stream = UnixStream::connect_addr(&address)?;
    Ok(BufReader::with_capacity(256, stream))
}

/// Makes the kernel kill this process when the test ends, for whatever reason.
fn die_with_parent() -> io::Result<()> {
    // SAFETY: The call takes numbers only.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) }.into()).map(drop)
}

fn span(arguments: &[u64]) -> Span {
    Span::new(arguments[0], arguments[1])
}

fn ids(arguments: &[u64]) -> Ids {
    Ids {
        first: arguments[0],
        stride: arguments[1],
    }
}

fn done(result: io::Result<()>) -> Answer {
    result.map(|()| 0).map_err(|error| error.to_string())
}

fn text(error: io::Error) -> String {
    error.to_string()
}

impl Peer {
    fn serve(&mut self) -> io::Result<()> {
        let mut line = String::new();
        loop {
            line.clear();
            if self.stream.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let mut words = line.split_whitespace();
            let verb = words.next().unwrap_or("");
            let arguments: Vec<u64> = words.filter_map(|word| word.parse().ok()).collect();
            match verb {
                "stack" => return self.serve_on_stack(),
                "thread" => serve_in_thread(self.take()),
                _ => {}
            }
            let answer = self.answer(verb, &arguments);
            self.reply(&answer)?;
        }
    }

    fn reply(&mut self, answer: &Answer) -> io::Result<()> {
        let line = match answer {
            Ok(value) => format!("ok {value}\n"),
            Err(why) => format!("failed {}\n", why.replace('\n', " ")),
        };
        self.stream.get_mut().write_all(line.as_bytes())
    }

    /// Moves out all state; the socket's name is copied.
    fn take(&mut self) -> io::Result<Self> {
        Ok(Peer {
            socket: self.socket.clone(),
            stream: BufReader::with_capacity(256, self.stream.get_ref().try_clone()?),
            spliced: self.spliced.take(),
            pinned: self.pinned.take(),
            watched: self.watched.take(),
            restoring: self.restoring.take(),
            machine: self.machine.take(),
        })
    }

    /// Serves on, with stack pages that the test may use.
    #[inline(never)]
    fn serve_on_stack(&mut self) -> io::Result<()> {
        let mut room = [0u8; STACK_BYTES + PAGE_SIZE as usize];
        let addr = std::hint::black_box(&mut room).as_ptr() as u64;
        self.reply(&Ok(addr.next_multiple_of(PAGE_SIZE)))?;
        let served = self.serve();
        std::hint::black_box(&mut room);
        served
    }

    fn answer(&mut self, verb: &str, arguments: &[u64]) -> Answer {
        match verb {
            "splice" | "check_pipe" | "pin" | "unpin" | "pinned_write" | "watch"
            | "watch_moves" | "unwatch" | "restore" | "end_restore" => self.hold(verb, arguments),
            "restored" => {
                let restoring = self.restoring.as_ref().ok_or("nothing is restored")?;
                Ok(restoring.filled())
            }
            "present" => {
                let watched = self.watched.as_ref().ok_or("nothing is watched")?;
                Ok(watched.present(span(arguments)))
            }
            "move_pages" => {
                let watched = self.watched.as_ref().ok_or("nothing is watched")?;
                let to = Span::new(arguments[2], arguments[1]);
                Ok(watched.refused_moves(span(arguments), to))
            }
            "dumpable" | "register_all" | "subreaper" | "user" | "user_namespace" | "fork"
            | "exec" | "long_exec" | "exit" => self.process(verb, arguments),
            "user_ids" | "group_ids" | "fsuid" | "fsgid" | "keep_capabilities"
            | "drop_capabilities" => done(change_credentials(verb, arguments)),
            "machine" => {
                self.machine = Some(Machine::new(span(arguments))?);
                Ok(0)
            }
            "machine_write" | "machine_sum" | "machine_flip" => self.run_guest(verb, arguments),
            "hold_forks" => done(held::hold_forks(arguments[0])),
            "writer" => done(held::start_writer(arguments[0], arguments[1])),
            "churn" => churn::run(arguments[0], arguments[1], arguments.get(2).copied()),
            "catch_bus" => done(bus::catch(arguments[0] != 0)),
            "bus_signals" => Ok(bus::seen(arguments[0])),
            _ => use_memory(verb, arguments),
        }
    }

    fn hold(&mut self, verb: &str, arguments: &[u64]) -> Answer {
        match verb {
            "splice" => {
                let (spliced, given) = Spliced::new(span(arguments)).map_err(text)?;
                self.spliced = Some(spliced);
                return Ok(given);
            }
            "check_pipe" => {
                let spliced = self.spliced.take().ok_or("no pipe has pages")?;
                spliced.check(arguments[0], ids(&arguments[1..]))?;
            }
            "pin" => self.pinned = Some(Pinned::new(span(arguments)).map_err(text)?),
            "unpin" => {
                let pinned = self.pinned.take().ok_or("no buffer is pinned")?;
                pinned.release().map_err(text)?;
            }
            "pinned_write" => {
                let pinned = self.pinned.as_mut().ok_or("no buffer is pinned")?;
                pinned.write(arguments[0], arguments[1]).map_err(text)?;
            }
            "watch" => {
                self.watched = Some(Watched::new(span(arguments), arguments[2]).map_err(text)?);
            }
            "watch_moves" => {
                self.watched = Some(Watched::to_move(span(arguments)).map_err(text)?);
            }
            "restore" => {
                let restoring = Restoring::new(span(arguments), ids(&arguments[2..]));
                self.restoring = Some(restoring.map_err(text)?);
            }
            "end_restore" => {
                let restoring = self.restoring.take().ok_or("nothing is restored")?;
                restoring.end().map_err(text)?;
            }
            _ => self.watched = None,
        }
        Ok(0)
    }

    fn run_guest(&mut self, verb: &str, arguments: &[u64]) -> Answer {
        let machine = self.machine.as_mut().ok_or("there is no machine")?;
        let (span, rest) = (span(arguments), &arguments[2..]);
        match verb {
            "machine_write" => machine.write(span, rest[0]).map(|()| 0),
            "machine_sum" => machine.sum(span),
            _ => machine.flip(span, rest[0], Duration::from_millis(rest[1])),
        }
    }

    fn process(&mut self, verb: &str, arguments: &[u64]) -> Answer {
        match verb {
            "dumpable" => done(set_process(libc::PR_SET_DUMPABLE, arguments[0])),
            "register_all" => done(set_process(PR_SET_MEMORY_MERGE, arguments[0])),
            "subreaper" => done(set_process(libc::PR_SET_CHILD_SUBREAPER, 1)),
            "user" => done(spawn::become_user(arguments[0] as u32)),
            "user_namespace" => done(enter_user_namespace(arguments[0])),
            "fork" => self.fork(),
            "exec" => Err(program(&self.socket).exec().to_string()),
            "long_exec" => Err(held::exec(program(&self.socket)).to_string()),
            _ => std::process::exit(0),
        }
    }

    /// Forks; the child opens its own connection and serves even if its parent ends.
    fn fork(&mut self) -> Answer {
        // SAFETY: This process has a single thread, so its child may run any code.
        let pid = check(unsafe { libc::fork() }.into()).map_err(text)?;
        if pid == 0 {
            let served = self.serve_in_child();
            std::process::exit(i32::from(served.is_err()));
        }
        Ok(pid)
    }

    fn serve_in_child(&mut self) -> io::Result<()> {
        self.stream = connect(&self.socket)?;
        self.serve()
    }
}

/// Serves on in another thread, and ends the first one.
fn serve_in_thread(peer: io::Result<Peer>) -> ! {
    let serve = move || {
        // SAFETY: The call takes no argument.
        let id = unsafe { libc::gettid() };
        let served = peer.and_then(|mut peer| {
            peer.reply(&Ok(id as u64))?;
            peer.serve()
        });
        std::process::exit(i32::from(served.is_err()));
    };
    std::thread::spawn(serve);
    loop {
        // SAFETY: The call ends only this thread; the other thread uses nothing on its stack.
        unsafe { libc::syscall(libc::SYS_exit, 0) };
    }
}

fn use_memory(verb: &str, arguments: &[u64]) -> Answer {
    match verb {
        "heap" => return memory::heap(arguments[0]).map_err(text),
        "poke" => {
            memory::poke(arguments[0], arguments[1]);
            return Ok(0);
        }
        "peek" => return Ok(memory::peek(arguments[0])),
        "mlockall" => return done(memory::lock_all()),
        "cpu" => return done(task::pin(0, arguments[0])),
        _ => {}
    }
    let (span, rest) = (span(arguments), &arguments[2..]);
    match verb {
        "map" => done(Kind::from_number(rest[0]).and_then(|kind| memory::map(span, kind))),
        "fill" => {
            memory::fill(span, ids(rest));
            Ok(0)
        }
        "check" => memory::check_contents(span, ids(rest)).map(|()| 0),
        "madvise" => done(memory::advise(span, rest[0])),
        "mprotect" => done(memory::protect(span, rest[0])),
        "mlock" => done(memory::lock(span)),
        "mlock_onfault" => done(memory::lock_on_fault(span)),
        "shadow_stack" => done(memory::map_shadow_stack(span)),
        "set_tags" => {
            tags::set(span, rest[0]);
            Ok(0)
        }
        "check_tags" => tags::check(span, rest[0]).map(|()| 0),
        "tag_storm" => tags::storm(span, ids(rest), rest[2]),
        "fill_alike" => {
            attack::fill_alike(span, rest[0] as usize);
            Ok(0)
        }
        "fill_colliding" => {
            attack::fill_colliding(span);
            Ok(0)
        }
        "storm" => storm::run(span, rest[0], rest[1]),
        "probe" => done(attack::probe(span, rest[0], rest[1])),
        "flip" => memory::flip(span, Duration::from_millis(rest[0])).map(|()| 0),
        "read_touch" => {
            memory::read(span);
            Ok(0)
        }
        "touch" => {
            memory::touch(span);
            Ok(0)
        }
        "munlock" => done(memory::unlock(span)),
        "munmap" => done(memory::unmap(span)),
        "bind" => done(memory::bind(span, rest[0])),
        "bind_all" => done(memory::bind_all(span, rest[0])),
        "perforate" => done(memory::perforate(span)),
        "mremap" => done(memory::remap(span, rest[0])),
        _ => Err(format!("unknown request {verb}")),
    }
}

/// `PR_SET_MEMORY_MERGE` of include/uapi/linux/prctl.h.
const PR_SET_MEMORY_MERGE: i32 = 67;

/// `prctl` with one number.
fn set_process(what: i32, value: u64) -> io::Result<()> {
    // SAFETY: These options take numbers only.
    check(unsafe { libc::prctl(what, value, 0, 0, 0) }.into()).map(drop)
}

/// Changes user IDs, group IDs or capabilities of the process.
fn change_credentials(verb: &str, arguments: &[u64]) -> io::Result<()> {
    let id = |index: usize| arguments[index] as u32;
    let result = match verb {
        // SAFETY: The call takes numbers only.
        "user_ids" => unsafe { libc::setresuid(id(0), id(1), id(2)) },
        // SAFETY: As above.
        "group_ids" => unsafe { libc::setresgid(id(0), id(1), id(2)) },
        "keep_capabilities" => return set_process(libc::PR_SET_KEEPCAPS, 1),
        "drop_capabilities" => return child::drop_capabilities(),
        // The kernel returns the previous ID and never an error.
        // SAFETY: As above.
        "fsuid" => unsafe { libc::setfsuid(id(0)).min(0) },
        // SAFETY: As above.
        _ => unsafe { libc::setfsgid(id(0)).min(0) },
    };
    check(result.into()).map(drop)
}

/// Registers all memory of the calling process and of the programs that it executes.
pub fn register_all() -> io::Result<()> {
    set_process(PR_SET_MEMORY_MERGE, 1)
}

/// Enters a new user namespace, in which the user's ID is `inside`.
fn enter_user_namespace(inside: u64) -> io::Result<()> {
    // SAFETY: The call takes no argument.
    let outside = unsafe { libc::getuid() };
    // SAFETY: The call takes flags only.
    check(unsafe { libc::unshare(libc::CLONE_NEWUSER) }.into())?;
    std::fs::write("/proc/self/uid_map", format!("{inside} {outside} 1"))
}

/// This program as a peer of the same test.
fn program(socket: &str) -> Command {
    let mut program = Command::new(spawn::SELF);
    program.args([ARGUMENT, socket]);
    program
}
