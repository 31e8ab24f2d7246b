// SPDX-License-Identifier: GPL-2.0

//! A process that runs a virtual machine, from the tests' point of view.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use guest::expect;
use guest::ksm_v::module;
use guest::lab::Lab;
use guest::memory::content;
use guest::memory::content::Ids;
use guest::memory::content::PAGE_SIZE;
use guest::memory::content::WORDS;
use guest::memory::pagemap;
use guest::memory::pagemap::Entry;
use guest::memory::pages::Pages;
use guest::process::peer::machine::RESERVED_PAGES;
use guest::process::peer::Kind;
use guest::process::peer::Peer;
use guest::process::peer::User;
use guest::Context;
use guest::Result;
use guest::Span;

/// The device file of KVM.
const DEVICE: &str = "/dev/kvm";
/// The modules that KVM needs, in this order, unless they are built in or the kernel does not need
/// them.
const NEEDED_AT_TIMES: [&str; 3] = ["irqbypass", "ccp", "kvm"];
/// The size of a machine's RAM in pages: 2 MiB.
const RAM_PAGES: u64 = 512;
/// The number of 32-bit half words in a page; guest programs use half words.
const HALVES: usize = WORDS * 2;

/// A virtual machine and the process that runs it.
pub(super) struct Machine {
    peer: Peer,
    ram: Span,
}

impl Machine {
    /// Starts a process of `user` with a machine.
    pub(super) fn new(lab: &Lab, user: User) -> Result<Self> {
        ensure_kvm()?;
        let peer = lab.peer(user)?;
        let ram = peer.map(Kind::Anon, RAM_PAGES)?;
        // Small pages, so that no page is a part of a huge page.
        peer.keep_small(ram)?;
        peer.ask("machine", &[ram.addr, ram.pages])?;
        Ok(Machine { peer, ram })
    }

    /// The part of the RAM that tests use, by its addresses in the process.
    pub(super) fn data(&self) -> Span {
        self.ram.part(RESERVED_PAGES, RAM_PAGES - RESERVED_PAGES)
    }

    /// The pages of that part.
    pub(super) fn pages(&self) -> Pages<'_> {
        (&self.peer, self.data())
    }

    /// The page table entries of that part in the process.
    pub(super) fn entries(&self) -> Result<Vec<Entry>> {
        pagemap::entries(self.peer.pid(), self.data())
    }

    /// Writes contents from the host.
    pub(super) fn fill(&self, ids: Ids) -> Result {
        self.peer.fill(self.data(), ids)
    }

    /// Makes the guest write ascending values from `first` on to the first half word of each page.
    pub(super) fn write(&self, first: u32) -> Result {
        self.write_part(0, self.data().pages, first)
    }

    /// Like [`Self::write`], for the `pages` pages from `index` on.
    pub(super) fn write_part(&self, index: u64, pages: u64, first: u32) -> Result {
        let inside = self.inside().part(index, pages);
        let arguments = [inside.addr, inside.pages, u64::from(first)];
        self.peer.ask("machine_write", &arguments).map(drop)
    }

    /// Reads the first half word of a page from the host.
    pub(super) fn half(&self, page: Span) -> Result<u64> {
        Ok(self.peer.peek(page.addr)? & u64::from(u32::MAX))
    }

    /// Writes the first half word of a page from the host.
    pub(super) fn poke_half(&self, page: Span, value: u32) -> Result {
        let word = self.peer.peek(page.addr)? & !u64::from(u32::MAX);
        self.peer.poke(page.addr, word | u64::from(value))
    }

    /// Makes the guest repeatedly change pages by xor with `mark` and restore them for the given
    /// time, and check that it reads what it wrote.
    pub(super) fn begin_flip(&self, mark: u32, time: Duration) -> Result {
        let Span { addr, pages } = self.inside();
        let time = time.as_millis() as u64;
        let arguments = [addr, pages, u64::from(mark), time];
        self.peer.begin("machine_flip", &arguments)
    }

    /// Waits for the end of that; returns the number of writes.
    pub(super) fn finish_flip(&self) -> Result<u64> {
        self.peer.finish("machine_flip")
    }

    /// Expects that the guest reads these contents, with values from `first` on in the first half
    /// words.
    pub(super) fn expect_inside(&self, ids: Ids, first: Option<u32>) -> Result {
        let Span { addr, pages } = self.inside();
        let found = self.peer.ask("machine_sum", &[addr, pages])?;
        let expected = (0..pages).fold(0, |sum, index| checksum(sum, &halves(ids, index, first)));
        let what = format!("checksum of the guest in process {}", self.peer.pid());
        expect::eq(what, u64::from(expected), found)
    }

    /// Expects that the process reads these contents.
    pub(super) fn expect_outside(&self, ids: Ids, first: Option<u32>) -> Result {
        let memory = self.peer.read(self.data())?;
        let pages = memory.chunks_exact(PAGE_SIZE as usize);
        for (index, page) in pages.enumerate() {
            let found = page
                .chunks_exact(4)
                .map(|half| u32::from_ne_bytes(half.try_into().expect("4 bytes")));
            let expected = halves(ids, index as u64, first);
            let differing = expected
                .iter()
                .zip(found)
                .position(|(expected, found)| *expected != found);
            expect::eq(
                format!("half word of page {index} that differs outside"),
                None,
                differing,
            )?;
        }
        Ok(())
    }

    /// The data by its guest-physical addresses.
    fn inside(&self) -> Span {
        Span::new(RESERVED_PAGES * PAGE_SIZE, RAM_PAGES - RESERVED_PAGES)
    }
}

/// Loads KVM if needed, and allows everybody to use it.
fn ensure_kvm() -> Result {
    if !Path::new(DEVICE).exists() {
        for name in NEEDED_AT_TIMES {
            // A missing module file means that the kernel does not need the module.
            let _ = module::load_beside(name);
        }
        module::load_beside("kvm-amd")?;
    }
    fs::set_permissions(DEVICE, fs::Permissions::from_mode(0o666)).context(|| DEVICE)
}

/// The half words of page `index`.
fn halves(ids: Ids, index: u64, first: Option<u32>) -> Vec<u32> {
    let words = content::page(ids.of(index));
    let mut halves: Vec<u32> = words
        .iter()
        .flat_map(|&word| [word as u32, (word >> 32) as u32])
        .collect();
    assert_eq!(halves.len(), HALVES);
    if let Some(first) = first {
        halves[0] = first + index as u32;
    }
    halves
}

/// Continues the checksum of the guest program `sum`.
fn checksum(sum: u32, halves: &[u32]) -> u32 {
    halves
        .iter()
        .fold(sum, |sum, &half| sum.wrapping_mul(31).wrapping_add(half))
}
