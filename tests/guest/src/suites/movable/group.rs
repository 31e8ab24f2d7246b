// SPDX-License-Identifier: GPL-2.0

//! Groups of processes that share merged pages.

use guest::expect;
use guest::expect::FailureContext;
use guest::ksm_v::scanner;
use guest::lab::Lab;
use guest::memory::content::Ids;
use guest::memory::numa;
use guest::memory::pagemap;
use guest::memory::pagemap::Entry;
use guest::memory::pagemap::Frame;
use guest::memory::pages;
use guest::process::peer::Peer;
use guest::process::peer::User;
use guest::Context;
use guest::Result;
use guest::Span;

use super::IDS;

/// A process and the places of its pages, in order.
pub(super) struct Sharer {
    pub peer: Peer,
    pub parts: Vec<Span>,
}

impl Sharer {
    fn new(peer: Peer, pages: u64) -> Result<Self> {
        let span = peer.anon(pages, IDS)?;
        peer.keep_small(span)?;
        let parts = vec![span];
        Ok(Sharer { peer, parts })
    }

    pub fn pid(&self) -> i32 {
        self.peer.pid()
    }

    /// The address of each page.
    pub fn addresses(&self) -> Vec<u64> {
        let of = |part: &Span| {
            let part = *part;
            (0..part.pages).map(move |index| part.page(index).addr)
        };
        self.parts.iter().flat_map(of).collect()
    }

    /// The page `index`.
    pub fn page(&self, index: u64) -> Span {
        Span::new(self.addresses()[index as usize], 1)
    }

    pub fn entries(&self) -> Result<Vec<Entry>> {
        let mut all = Vec::new();
        for &part in &self.parts {
            all.extend(pagemap::entries(self.pid(), part)?);
        }
        Ok(all)
    }

    /// The number of its pages that are swapped out.
    pub fn swapped(&self) -> Result<usize> {
        let entries = self.entries()?;
        Ok(entries.iter().filter(|entry| entry.swapped()).count())
    }

    fn frames(&self) -> Result<Vec<Frame>> {
        let mut all = Vec::new();
        for &part in &self.parts {
            all.extend(self.peer.frames(part)?);
        }
        Ok(all)
    }

    /// Expects the contents of all pages.
    pub fn check(&self) -> Result {
        let mut first = 0;
        for &part in &self.parts {
            self.peer.check(part, Ids::each(IDS.of(first)))?;
            first += part.pages;
        }
        Ok(())
    }

    /// The sum of a field of `smaps` over its pages.
    pub fn smaps_pages(&self, name: &str) -> Result<u64> {
        let of = |&part: &Span| self.peer.smaps_pages(part, name);
        self.parts.iter().map(of).sum()
    }
}

/// Processes that share all pages. The module is stopped.
pub(super) struct Group {
    pub sharers: Vec<Sharer>,
    pub pages: u64,
}

impl Group {
    /// Creates a group of two processes.
    pub fn pair(lab: &Lab, pages: u64) -> Result<Self> {
        Self::of(lab.peer(User::Root)?, lab.peer(User::Root)?, pages)
    }

    /// Creates a group of these two processes.
    pub fn of(one: Peer, other: Peer, pages: u64) -> Result<Self> {
        let sharers = vec![Sharer::new(one, pages)?, Sharer::new(other, pages)?];
        let group = Group { sharers, pages };
        group.merge()?;
        group.expect_shared("after merging")?;
        Ok(group)
    }

    /// Creates a group of two processes and a child of the first. The second process has moved its
    /// last quarter elsewhere and cannot write to some pages in the middle.
    pub fn mixed(lab: &Lab, pages: u64) -> Result<Self> {
        Self::pair(lab, pages)?.mix()
    }

    /// Turns a pair into such a group.
    pub fn mix(mut self) -> Result<Self> {
        self.fork()?;
        self.scatter()?;
        self.expect_shared("after fork, mremap and mprotect")?;
        Ok(self)
    }

    /// Merges the memory of the processes.
    pub fn merge(&self) -> Result {
        for sharer in &self.sharers {
            for &part in &sharer.parts {
                scanner::merge_at_once(scanner::part(&sharer.peer, part))?;
            }
        }
        Ok(())
    }

    /// Adds another process that shares the pages.
    pub fn join(&mut self, peer: Peer) -> Result {
        self.sharers.push(Sharer::new(peer, self.pages)?);
        self.merge()
    }

    /// Adds a child of the first process.
    pub fn fork(&mut self) -> Result {
        let parent = &self.sharers[0];
        let (peer, parts) = (parent.peer.fork()?, parent.parts.clone());
        self.sharers.push(Sharer { peer, parts });
        Ok(())
    }

    /// The first page and the number of pages that are read-only for the second process.
    pub fn read_only(&self) -> (u64, u64) {
        (self.pages / 4, self.pages / 16)
    }

    fn scatter(&mut self) -> Result {
        let (quarter, (first, count)) = (self.pages / 4, self.read_only());
        let Sharer { peer, parts } = &mut self.sharers[1];
        let span = parts[0];
        let moved = peer.remap(span.part(3 * quarter, quarter))?;
        *parts = vec![span.part(0, 3 * quarter), moved];
        peer.protect(span.part(first, count), libc::PROT_READ)
    }

    /// Expects that each page is on one merged frame in all processes, and that nobody else maps it.
    pub fn expect_shared(&self, when: &str) -> Result<Vec<Frame>> {
        let frames = self.sharers[0].frames().during(|| when)?;
        for sharer in &self.sharers[1..] {
            let others = sharer.frames().during(|| when)?;
            let differing = (0..frames.len()).find(|&index| frames[index] != others[index]);
            expect::that(differing.is_none(), || {
                let index = differing.unwrap_or(0);
                format!(
                    "{when}: page {index} of process {}: expected {:?} as in process {}, found {:?}",
                    sharer.pid(),
                    frames[index],
                    self.sharers[0].pid(),
                    others[index]
                )
            })?;
        }
        for &frame in &frames {
            let flags = frame.flags()?;
            expect::that(flags.ksm(), || {
                format!("{when}: {frame:?}: expected to be merged, found {flags:?}")
            })?;
        }
        pages::expect_mappings(&frames, self.sharers.len() as u64).during(|| when)?;
        Ok(frames)
    }

    /// Expects that all processes have their contents and share them.
    pub fn expect_intact(&self, when: &str) -> Result<Vec<Frame>> {
        let frames = self.expect_shared(when)?;
        self.check(when)?;
        Ok(frames)
    }

    /// Like [`Self::expect_intact`], and expects the same frames.
    pub fn expect_in_place(&self, when: &str, frames: &[Frame]) -> Result {
        let found = self.expect_intact(when)?;
        expect::eq(
            format!("{when}: pages that moved"),
            0,
            changed(frames, &found),
        )
    }

    /// Expects that all processes have their contents.
    pub fn check(&self, when: &str) -> Result {
        let mut sharers = self.sharers.iter();
        sharers.try_for_each(|sharer| sharer.check().during(|| when))
    }

    /// The number of page table entries in all processes that refer to swapped pages.
    pub fn swapped(&self) -> Result<usize> {
        self.sharers.iter().map(Sharer::swapped).sum()
    }

    /// Asks the kernel on behalf of process `who` to move each page to a node; returns the nodes
    /// afterwards.
    pub fn move_by(&self, who: usize, targets: &[i32]) -> Result<Vec<i32>> {
        let sharer = &self.sharers[who];
        numa::move_pages(sharer.pid(), &sharer.addresses(), targets).context(|| "move_pages")
    }

    /// The nodes of the pages.
    pub fn nodes(&self) -> Result<Vec<i32>> {
        let sharer = &self.sharers[0];
        numa::nodes_of(sharer.pid(), &sharer.addresses()).context(|| "nodes of pages")
    }

    /// Moves all pages to one node.
    pub fn move_all(&self, who: usize, node: i32) -> Result {
        let targets = vec![node; self.pages as usize];
        let found = self.move_by(who, &targets)?;
        expect::eq(
            format!("pages moved to node {node} for process {who}"),
            self.pages as usize,
            found.iter().filter(|&&found| found == node).count(),
        )?;
        self.expect_on(node, "after moving")
    }

    /// Expects that all pages are on a node.
    pub fn expect_on(&self, node: i32, when: &str) -> Result {
        let found = self.nodes()?.iter().filter(|&&found| found == node).count();
        expect::eq(
            format!("{when}: pages on node {node}"),
            self.pages as usize,
            found,
        )
    }
}

/// The number of pages that have a different frame.
pub(super) fn changed(before: &[Frame], after: &[Frame]) -> usize {
    let pairs = before.iter().zip(after);
    pairs.filter(|(before, after)| before != after).count()
}
