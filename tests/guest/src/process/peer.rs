// SPDX-License-Identifier: GPL-2.0

//! Processes whose pages are merged, and the requests that a test can send them.
//!
//! A peer is a new process of this very program: it shares no page with the test or with another
//! peer, unless another peer forked it. The test sends requests over a socket, one line each, and
//! gets one line as the answer; [`server`] implements the peer's side. A peer dies with the test.

use std::cell::Cell;
use std::cell::RefCell;
use std::fs::File;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Write;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::FileExt;
use std::os::unix::net::SocketAddr;
use std::os::unix::net::UnixListener;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::Duration;

use nix::sys::signal::kill;
use nix::sys::signal::Signal;
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use crate::expect;
use crate::kernel::cgroup::Cgroup;
use crate::kernel::feature::Feature;
use crate::kernel::procfs;
use crate::memory::content;
use crate::memory::content::Ids;
use crate::memory::content::PAGE_SIZE;
use crate::memory::pagemap;
use crate::memory::pagemap::Frame;
use crate::process::task;
use crate::Context;
use crate::Result;
use crate::Span;

pub mod attack;
pub mod bus;
pub mod churn;
pub mod held;
#[cfg(target_arch = "x86_64")]
pub mod machine;
#[cfg(not(target_arch = "x86_64"))]
#[path = "peer/no_machine.rs"]
pub mod machine;
pub mod memory;
pub mod pins;
pub mod server;
pub mod spawn;
mod storm;
pub mod tags;

pub use memory::Kind;
pub use spawn::become_user;
pub use spawn::prepare;

/// How long a peer may take for one request.
const ANSWER_TIMEOUT: Duration = task::PATIENCE;

/// The distance between the slots for a peer's regions.
const SLOT: u64 = 1 << 32;
/// The address of the first slot: far from all other mappings, and aligned to a huge page.
const FIRST_SLOT: u64 = 0x1000_0000_0000;

/// The user a process runs as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum User {
    /// The superuser.
    Root,
    /// An ordinary user.
    Alice,
    /// Another ordinary user.
    Bob,
}

impl User {
    /// The user ID, which is also the ID of the user's group.
    pub fn id(self) -> u32 {
        match self {
            User::Root => 0,
            User::Alice => 1000,
            User::Bob => 1001,
        }
    }
}

/// Real, effective and saved IDs.
pub type Ids3 = [Option<User>; 3];

fn id_or_none(user: Option<User>) -> u64 {
    user.map_or(u32::MAX, User::id).into()
}

/// Starts peers; each connects to its socket.
pub struct Nursery {
    listener: UnixListener,
    name: String,
}

impl Nursery {
    /// Opens the socket.
    pub fn open() -> Result<Rc<Self>> {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let name = format!("ksm_v_test.{}.{count}", std::process::id());
        let listener = SocketAddr::from_abstract_name(&name)
            .and_then(|address| UnixListener::bind_addr(&address))
            .context(|| "opening the socket of the peers")?;
        Ok(Rc::new(Nursery { listener, name }))
    }

    /// Starts a process of `user`.
    pub fn spawn(self: &Rc<Self>, user: User) -> Result<Peer> {
        self.spawn_in(user, None)
    }

    /// Starts a process of `user` in a cgroup.
    pub fn spawn_in(self: &Rc<Self>, user: User, cgroup: Option<&Cgroup>) -> Result<Peer> {
        let pid = spawn::start(user.id(), cgroup.map(Cgroup::procs), &self.name)?;
        self.adopt(pid, true)
    }

    /// Starts `program`, a copy of this one. The new process, still as root, runs `setup` before it
    /// executes `program`.
    pub fn spawn_program(
        self: &Rc<Self>,
        program: &str,
        setup: impl Fn() -> std::io::Result<()> + Send + Sync + 'static,
    ) -> Result<Peer> {
        let pid = spawn::start_program(program, &self.name, setup)?;
        self.adopt(pid, true)
    }

    /// Waits for the connection of the process `pid`, which was just started, and wraps it.
    fn adopt(self: &Rc<Self>, pid: i32, is_child: bool) -> Result<Peer> {
        Ok(Peer {
            pid,
            is_child,
            stream: RefCell::new(self.accept(pid)?),
            next_slot: Cell::new(FIRST_SLOT),
            nursery: Rc::clone(self),
        })
    }

    /// Waits until the process connects.
    fn accept(&self, pid: i32) -> Result<BufReader<UnixStream>> {
        let accept = || {
            let stream = spawn::accept(&self.listener, ANSWER_TIMEOUT)?;
            stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
            Ok::<_, std::io::Error>(BufReader::new(stream))
        };
        accept().context(|| format!("waiting for the process {pid}"))
    }
}

/// A process that serves requests; dropping this kills it.
pub struct Peer {
    pid: i32,
    is_child: bool,
    stream: RefCell<BufReader<UnixStream>>,
    next_slot: Cell<u64>,
    nursery: Rc<Nursery>,
}

/// Requests and answers.
impl Peer {
    /// The process ID.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Sends a request and waits for the answer.
    pub fn ask(&self, verb: &str, arguments: &[u64]) -> Result<u64> {
        self.begin(verb, arguments)?;
        self.finish(verb)
    }

    /// Sends a request; the caller must call [`Peer::finish`] later.
    pub fn begin(&self, verb: &str, arguments: &[u64]) -> Result {
        let mut line = verb.to_owned();
        for argument in arguments {
            line.push_str(&format!(" {argument}"));
        }
        line.push('\n');
        let mut stream = self.stream.borrow_mut();
        let sent = stream.get_mut().write_all(line.as_bytes());
        sent.context(|| self.doing(verb))
    }

    /// Waits for the answer to a request.
    pub fn finish(&self, verb: &str) -> Result<u64> {
        let mut line = String::new();
        let read = self.stream.borrow_mut().read_line(&mut line);
        read.context(|| self.doing(verb))?;
        match line.trim_end().split_once(' ') {
            Some(("ok", value)) => value.parse().context(|| self.doing(verb)),
            Some(("failed", why)) => Err(format!("{}: {why}", self.doing(verb)).into()),
            _ => Err(format!("{}: expected an answer, found {line:?}", self.doing(verb)).into()),
        }
    }

    fn doing(&self, verb: &str) -> String {
        format!("process {}, {verb}", self.pid)
    }

    fn on(&self, verb: &str, span: Span, rest: &[u64]) -> Result<u64> {
        let mut arguments = vec![span.addr, span.pages];
        arguments.extend(rest);
        self.ask(verb, &arguments)
    }
}

/// Memory.
impl Peer {
    /// Maps `pages` pages of a kind in their own slot, aligned to a huge page.
    pub fn map(&self, kind: Kind, pages: u64) -> Result<Span> {
        let span = Span::new(self.next_slot.get(), pages);
        self.next_slot.set(span.addr + SLOT);
        self.map_at(kind, span)?;
        Ok(span)
    }

    /// Maps a span at an unused address.
    pub fn map_at(&self, kind: Kind, span: Span) -> Result {
        self.on("map", span, &[kind as u64]).map(drop)
    }

    /// Maps private anonymous memory and fills it.
    pub fn anon(&self, pages: u64, ids: Ids) -> Result<Span> {
        self.filled(Kind::Anon, pages, ids)
    }

    /// Maps memory of a kind and fills it.
    pub fn filled(&self, kind: Kind, pages: u64, ids: Ids) -> Result<Span> {
        let span = self.map(kind, pages)?;
        self.fill(span, ids)?;
        Ok(span)
    }

    /// As [`Self::anon`], and registers the memory with KSM.
    pub fn registered(&self, pages: u64, ids: Ids) -> Result<Span> {
        let span = self.anon(pages, ids)?;
        self.register(span)?;
        Ok(span)
    }

    /// Reserves an address range where nothing is mapped.
    pub fn free_place(&self, pages: u64) -> Span {
        let span = Span::new(self.next_slot.get(), pages);
        self.next_slot.set(span.addr + SLOT);
        span
    }

    /// Extends the heap (`brk`) by whole pages.
    pub fn heap(&self, pages: u64) -> Result<Span> {
        Ok(Span::new(self.ask("heap", &[pages])?, pages))
    }

    /// Returns [`server::STACK_PAGES`] pages of the peer's stack for the test to use.
    pub fn stack(&self) -> Result<Span> {
        Ok(Span::new(self.ask("stack", &[])?, server::STACK_PAGES))
    }

    /// Writes contents to all pages of a span.
    pub fn fill(&self, span: Span, ids: Ids) -> Result {
        self.on("fill", span, &[ids.first, ids.stride]).map(drop)
    }

    /// Expects these contents, comparing every byte.
    pub fn check(&self, span: Span, ids: Ids) -> Result {
        self.on("check", span, &[ids.first, ids.stride]).map(drop)
    }

    /// Writes one word.
    pub fn poke(&self, addr: u64, value: u64) -> Result {
        self.ask("poke", &[addr, value]).map(drop)
    }

    /// Repeatedly changes and restores the first word of each page for the given time, and expects to
    /// read back what it wrote.
    pub fn flip(&self, span: Span, time: Duration) -> Result {
        self.on("flip", span, &[time.as_millis() as u64]).map(drop)
    }

    /// Reads one word.
    pub fn peek(&self, addr: u64) -> Result<u64> {
        self.ask("peek", &[addr])
    }

    /// Calls `madvise` with an `MADV_` number.
    pub fn advise(&self, span: Span, advice: i32) -> Result {
        self.on("madvise", span, &[advice as u64]).map(drop)
    }

    /// Registers the pages of `span` with KSM (`MADV_MERGEABLE`).
    pub fn register(&self, span: Span) -> Result {
        self.advise(span, libc::MADV_MERGEABLE)
    }

    /// Keeps the kernel from collapsing the pages of `span` into huge pages, which would move them.
    pub fn keep_small(&self, span: Span) -> Result {
        match Feature::HugePages.missing() {
            None => self.advise(span, libc::MADV_NOHUGEPAGE),
            Some(_) => Ok(()),
        }
    }

    /// Binds the pages of `span` to a NUMA node (`mbind`), both existing and future pages.
    pub fn bind(&self, span: Span, node: u64) -> Result {
        self.on("bind", span, &[node]).map(drop)
    }

    /// Like [`Self::bind`], but also moves pages shared with others; fails if a page cannot be moved
    /// (`MPOL_MF_MOVE_ALL | MPOL_MF_STRICT`). Requires `CAP_SYS_NICE`.
    pub fn bind_all(&self, span: Span, node: u64) -> Result {
        self.on("bind_all", span, &[node]).map(drop)
    }

    /// Discards every other page (`MADV_DONTNEED`), one by one.
    pub fn perforate(&self, span: Span) -> Result {
        self.on("perforate", span, &[]).map(drop)
    }

    /// Calls `mprotect` with `PROT_` bits.
    pub fn protect(&self, span: Span, protection: i32) -> Result {
        self.on("mprotect", span, &[protection as u64]).map(drop)
    }

    /// Enables memory tags for a span; all tags are initially 0. This cannot be undone.
    pub fn allow_tags(&self, span: Span) -> Result {
        self.protect(span, libc::PROT_READ | libc::PROT_WRITE | tags::PROT_MTE)
    }

    /// Sets the memory tags of a span, derived from `seed`; seed 0 makes all tags 0.
    pub fn set_tags(&self, span: Span, seed: u64) -> Result {
        self.on("set_tags", span, &[seed]).map(drop)
    }

    /// Expects the memory tags of this seed.
    pub fn check_tags(&self, span: Span, seed: u64) -> Result {
        self.on("check_tags", span, &[seed]).map(drop)
    }

    /// Calls `mlock`.
    pub fn lock(&self, span: Span) -> Result {
        self.on("mlock", span, &[]).map(drop)
    }

    /// Calls `mlock2` with `MLOCK_ONFAULT`, which does not fault in missing pages.
    pub fn lock_on_fault(&self, span: Span) -> Result {
        self.on("mlock_onfault", span, &[]).map(drop)
    }

    /// Calls `mlockall` for all current and future mappings.
    pub fn lock_all(&self) -> Result {
        self.ask("mlockall", &[]).map(drop)
    }

    /// Maps a shadow stack, if the machine supports it.
    pub fn map_shadow_stack(&self, span: Span) -> Result {
        self.on("shadow_stack", span, &[]).map(drop)
    }

    /// Writes one word to each page, which is faster than filling it.
    pub fn touch(&self, span: Span) -> Result {
        self.on("touch", span, &[]).map(drop)
    }

    /// Reads one word of each page, which maps the shared zero page where no page was present.
    pub fn read_touch(&self, span: Span) -> Result {
        self.on("read_touch", span, &[]).map(drop)
    }

    /// Calls `munlock`.
    pub fn unlock(&self, span: Span) -> Result {
        self.on("munlock", span, &[]).map(drop)
    }

    /// Calls `munmap`.
    pub fn unmap(&self, span: Span) -> Result {
        self.on("munmap", span, &[]).map(drop)
    }

    /// Calls `mremap` to move the span to a slot of its own.
    pub fn remap(&self, span: Span) -> Result<Span> {
        let place = self.free_place(span.pages);
        self.on("mremap", span, &[place.addr])?;
        Ok(place)
    }
}

/// Holders and watchers of pages.
impl Peer {
    /// Gives the pages to a pipe without copying (`vmsplice`); the pipe then holds references to them.
    pub fn splice(&self, span: Span) -> Result {
        let given = self.on("splice", span, &[])?;
        expect::eq("bytes that vmsplice gave to the pipe", span.bytes(), given)
    }

    /// Expects these contents in the pipe, and empties the pipe.
    pub fn check_pipe(&self, pages: u64, ids: Ids) -> Result {
        self.ask("check_pipe", &[pages, ids.first, ids.stride])
            .map(drop)
    }

    /// Registers the pages as an io_uring buffer, which pins them long-term.
    pub fn pin(&self, span: Span) -> Result {
        self.on("pin", span, &[]).map(drop)
    }

    /// Unregisters the buffer.
    pub fn unpin(&self) -> Result {
        self.ask("unpin", &[]).map(drop)
    }

    /// Makes the io_uring write a word into its buffer.
    pub fn pinned_write(&self, addr: u64, value: u64) -> Result {
        self.ask("pinned_write", &[addr, value]).map(drop)
    }

    /// Registers a span with a userfaultfd. `mode` has `UFFDIO_REGISTER_MODE_` bits.
    pub fn watch(&self, span: Span, mode: u64) -> Result {
        self.on("watch", span, &[mode]).map(drop)
    }

    /// The number of pages of a watched span that are there, for the userfaultfd.
    pub fn present(&self, span: Span) -> Result<u64> {
        self.on("present", span, &[])
    }

    /// Registers an empty span with a userfaultfd. A thread fills missing pages with these contents, as a virtual
    /// machine monitor restores a snapshot.
    pub fn restore(&self, span: Span, ids: Ids) -> Result {
        self.on("restore", span, &[ids.first, ids.stride]).map(drop)
    }

    /// The number of pages that were restored.
    pub fn restored(&self) -> Result<u64> {
        self.ask("restored", &[])
    }

    /// Ends the thread and its userfaultfd.
    pub fn end_restore(&self) -> Result {
        self.ask("end_restore", &[]).map(drop)
    }

    /// Registers an empty span with a userfaultfd as a destination for moved pages.
    pub fn watch_moves(&self, span: Span) -> Result {
        self.on("watch_moves", span, &[]).map(drop)
    }

    /// Moves pages through the userfaultfd; returns how many pages the kernel refused to move.
    pub fn move_pages(&self, from: Span, to: Span) -> Result<u64> {
        self.on("move_pages", from, &[to.addr])
    }

    /// Closes the userfaultfd.
    pub fn unwatch(&self) -> Result {
        self.ask("unwatch", &[]).map(drop)
    }
}

/// The process as a whole.
impl Peer {
    /// Makes the process dumpable or not dumpable.
    pub fn set_dumpable(&self, dumpable: bool) -> Result {
        self.ask("dumpable", &[u64::from(dumpable)]).map(drop)
    }

    /// Switches to another user.
    pub fn become_user(&self, user: User) -> Result {
        self.ask("user", &[u64::from(user.id())]).map(drop)
    }

    /// Changes the user IDs (`setresuid`); `None` leaves an ID unchanged.
    pub fn set_user_ids(&self, ids: Ids3) -> Result {
        self.ask("user_ids", &ids.map(id_or_none)).map(drop)
    }

    /// Like [`Self::set_user_ids`], for the group IDs.
    pub fn set_group_ids(&self, ids: Ids3) -> Result {
        self.ask("group_ids", &ids.map(id_or_none)).map(drop)
    }

    /// Changes the user ID for file system access (`setfsuid`).
    pub fn set_file_system_user(&self, user: User) -> Result {
        self.ask("fsuid", &[user.id().into()]).map(drop)
    }

    /// Changes the group ID for file system access (`setfsgid`).
    pub fn set_file_system_group(&self, user: User) -> Result {
        self.ask("fsgid", &[user.id().into()]).map(drop)
    }

    /// Keeps its capabilities when it switches to another user (`PR_SET_KEEPCAPS`).
    pub fn keep_capabilities(&self) -> Result {
        self.ask("keep_capabilities", &[]).map(drop)
    }

    /// Drops all capabilities.
    pub fn drop_capabilities(&self) -> Result {
        self.ask("drop_capabilities", &[]).map(drop)
    }

    /// Enters a new user namespace, in which its user ID is that of `inside`.
    pub fn enter_user_namespace(&self, inside: User) -> Result {
        self.ask("user_namespace", &[u64::from(inside.id())])
            .map(drop)
    }

    /// Forks. The child has the same memory and is a peer, too.
    pub fn fork(&self) -> Result<Peer> {
        self.begin_fork()?;
        self.finish_fork()
    }

    /// Starts a fork; the caller must call [`Self::finish_fork`] later.
    pub fn begin_fork(&self) -> Result {
        self.begin("fork", &[])
    }

    /// Waits for the child of a started fork.
    pub fn finish_fork(&self) -> Result<Peer> {
        let pid = self.finish("fork")? as i32;
        let child = self.nursery.adopt(pid, false)?;
        child.next_slot.set(self.next_slot.get());
        Ok(child)
    }

    /// Maps the file that holds the process's forks (see [`crate::provoke::held_fork`]) at an address
    /// above all its other mappings.
    pub fn hold_forks(&self) -> Result {
        self.ask("hold_forks", &[self.free_place(1).addr]).map(drop)
    }

    /// Starts a thread that keeps writable TLB entries for two pages on its own CPU, and writes to
    /// both when it is told to.
    pub fn start_writer(&self, first: Span, second: Span) -> Result {
        self.ask("writer", &[first.addr, second.addr]).map(drop)
    }

    /// Becomes the parent of all its descendants whose parent ends (`PR_SET_CHILD_SUBREAPER`).
    pub fn adopt_orphans(&self) -> Result {
        self.ask("subreaper", &[]).map(drop)
    }

    /// Executes the same program again (`execve`): its memory is new, the process stays.
    pub fn exec(&self) -> Result {
        self.begin("exec", &[])?;
        self.finish_exec()
    }

    /// Starts an exec with an environment in which [`held::EQUAL_PAGES`] pages are equal; the caller must
    /// call [`Self::finish_exec`] later.
    pub fn begin_exec(&self) -> Result {
        self.begin("long_exec", &[])
    }

    /// Waits for the program of a started exec.
    pub fn finish_exec(&self) -> Result {
        let stream = self.nursery.accept(self.pid)?;
        self.stream.replace(stream);
        Ok(())
    }

    /// Ends the process and waits until its memory is freed.
    pub fn exit(self) -> Result {
        self.begin("exit", &[])?;
        let ended = task::wait_until(ANSWER_TIMEOUT, || task::ended(self.pid));
        expect::that(ended, || format!("process {} did not end", self.pid))
    }

    /// Continues in a second thread after the first one ends, and returns the ID of the second.
    pub fn leave_first_thread(&self) -> Result<i32> {
        let thread = self.ask("thread", &[])? as i32;
        let ended = task::wait_until(ANSWER_TIMEOUT, || task::ended(self.pid));
        expect::that(ended, || {
            format!("the first thread of {} did not end", self.pid)
        })?;
        Ok(thread)
    }

    /// Registers all current and future memory of the process (`PR_SET_MEMORY_MERGE`).
    pub fn register_all(&self) -> Result {
        self.ask("register_all", &[1]).map(drop)
    }

    /// Undoes [`Self::register_all`].
    pub fn unregister_all(&self) -> Result {
        self.ask("register_all", &[0]).map(drop)
    }

    /// Starts to change and check memory of its own for the given time; see [`Peer::churned`].
    pub fn churn(&self, seed: u64, time: Duration) -> Result {
        self.begin("churn", &[seed, time.as_millis() as u64])
    }

    /// Like [`Self::churn`], but for a number of steps instead of a time.
    pub fn churn_steps(&self, seed: u64, steps: u64) -> Result {
        self.begin("churn", &[seed, 0, steps])
    }

    /// Handles `SIGBUS` from now on: maps a new page in place of a failed one. With `early`, the
    /// kernel also reports failed pages before the process accesses them.
    pub fn catch_bus(&self, early: bool) -> Result {
        self.ask("catch_bus", &[early.into()]).map(drop)
    }

    /// The number of `SIGBUS` signals, and the code and address of the last one.
    pub fn bus_signals(&self) -> Result<(u64, u64, u64)> {
        let seen = |what| self.ask("bus_signals", &[what]);
        Ok((seen(0)?, seen(1)?, seen(2)?))
    }

    /// Waits for the end of [`Peer::churn`] and returns the number of steps.
    pub fn churned(&self) -> Result<u64> {
        self.finish("churn")
    }
}

/// The kernel's information about the peer's pages.
impl Peer {
    /// The frames of a span. All its pages are expected to be present.
    pub fn frames(&self, span: Span) -> Result<Vec<Frame>> {
        pagemap::frames(self.pid, span)
    }

    /// The frame of a page, which is expected to be present.
    pub fn frame(&self, span: Span, index: u64) -> Result<Frame> {
        Ok(self.frames(span.page(index))?[0])
    }

    /// Reads a span from outside, through `/proc/PID/mem`.
    pub fn read(&self, span: Span) -> Result<Vec<u8>> {
        let path = format!("/proc/{}/mem", self.pid);
        let mut bytes = vec![0; span.bytes() as usize];
        File::open(&path)
            .and_then(|file| file.read_exact_at(&mut bytes, span.addr))
            .context(|| format!("{path} at {span:?}"))?;
        Ok(bytes)
    }

    /// Fills the pages of a span with these contents from outside, through `/proc/PID/mem`.
    pub fn write(&self, span: Span, ids: impl Iterator<Item = u64>) -> Result {
        let path = format!("/proc/{}/mem", self.pid);
        let memory = File::options().write(true).open(&path);
        let memory = memory.context(|| path.clone())?;
        for (index, id) in (0..span.pages).zip(ids) {
            let bytes = content::bytes(|word| content::word(id, word));
            let written = memory.write_all_at(&bytes, span.page(index).addr);
            written.context(|| format!("{path} at {:?}", span.page(index)))?;
        }
        Ok(())
    }

    /// The sum of a field of `smaps` over a span, in pages.
    pub fn smaps_pages(&self, span: Span, name: &str) -> Result<u64> {
        Ok(procfs::smaps(self.pid, span, name)? * 1024 / PAGE_SIZE)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let pid = Pid::from_raw(self.pid);
        // Fails if the process has ended already, which is fine.
        let _ = kill(pid, Signal::SIGKILL);
        if self.is_child {
            let _ = waitpid(pid, None);
        } else if !task::wait_until(ANSWER_TIMEOUT, || task::ended(self.pid)) {
            eprintln!("process {} does not end", self.pid);
        }
    }
}
