// SPDX-License-Identifier: GPL-2.0

//! Processes that share merged pages.

use guest::content::Ids;
use guest::expect;
use guest::expect::FailureContext;
use guest::lab::Lab;
use guest::pagemap;
use guest::pagemap::Entry;
use guest::pagemap::Frame;
use guest::pages;
use guest::peer::Peer;
use guest::peer::User;
use guest::scanner;
use guest::Context;
use guest::Result;
use guest::Span;

use super::IDS;

/// A process, and where its pages are, in their order.
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

    /// One of its pages.
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

    /// How many of its pages are swapped out.
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

    /// Expects what all pages hold.
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
    /// Two processes.
    pub fn pair(lab: &Lab, pages: u64) -> Result<Self> {
        Self::of(lab.peer(User::Root)?, lab.peer(User::Root)?, pages)
    }

    /// These two.
    pub fn of(one: Peer, other: Peer, pages: u64) -> Result<Self> {
        let sharers = vec![Sharer::new(one, pages)?, Sharer::new(other, pages)?];
        let group = Group { sharers, pages };
        group.merge()?;
        group.expect_shared("after merging")?;
        Ok(group)
    }

    /// Two processes and a child of the first. The second one has moved its last quarter elsewhere, and
    /// may not write to some pages in the middle.
    pub fn mixed(lab: &Lab, pages: u64) -> Result<Self> {
        Self::pair(lab, pages)?.mix()
    }

    /// As above, of these.
    pub fn mix(mut self) -> Result<Self> {
        self.fork()?;
        self.scatter()?;
        self.expect_shared("after fork, mremap and mprotect")?;
        Ok(self)
    }

    /// Merges what the processes have.
    pub fn merge(&self) -> Result {
        for sharer in &self.sharers {
            for &part in &sharer.parts {
                scanner::merge_at_once(scanner::part(&sharer.peer, part))?;
            }
        }
        Ok(())
    }

    /// Another process comes to share the pages.
    pub fn join(&mut self, peer: Peer) -> Result {
        self.sharers.push(Sharer::new(peer, self.pages)?);
        self.merge()
    }

    /// The first process gets a child.
    pub fn fork(&mut self) -> Result {
        let parent = &self.sharers[0];
        let (peer, parts) = (parent.peer.fork()?, parent.parts.clone());
        self.sharers.push(Sharer { peer, parts });
        Ok(())
    }

    /// First page and number of those to which the second process may not write.
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

    /// Expects each page to be on one merged frame for all processes, and nobody else to have it.
    pub fn expect_shared(&self, when: &str) -> Result<Vec<Frame>> {
        let frames = self.sharers[0].frames().during(|| when)?;
        for sharer in &self.sharers[1..] {
            let others = sharer.frames().during(|| when)?;
            let differing = (0..frames.len()).find(|&index| frames[index] != others[index]);
            expect::that(differing.is_none(), || {
                let index = differing.unwrap_or(0);
                format!(
                    "{when}: page {index} of process {}: expected {:?} as process {} has, found {:?}",
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

    /// Expects all to have what they had, and to share it.
    pub fn expect_intact(&self, when: &str) -> Result<Vec<Frame>> {
        let frames = self.expect_shared(when)?;
        self.check(when)?;
        Ok(frames)
    }

    /// As above, on the same frames.
    pub fn expect_in_place(&self, when: &str, frames: &[Frame]) -> Result {
        let found = self.expect_intact(when)?;
        expect::eq(
            format!("{when}: pages that moved"),
            0,
            changed(frames, &found),
        )
    }

    /// Expects all to have what they had.
    pub fn check(&self, when: &str) -> Result {
        let mut sharers = self.sharers.iter();
        sharers.try_for_each(|sharer| sharer.check().during(|| when))
    }

    /// How many entries of all are for swapped pages.
    pub fn swapped(&self) -> Result<usize> {
        self.sharers.iter().map(Sharer::swapped).sum()
    }

    /// Has the kernel move pages by what a process says, each to a node; returns where they are then.
    pub fn move_by(&self, who: usize, targets: &[i32]) -> Result<Vec<i32>> {
        let sharer = &self.sharers[who];
        guest::numa::move_pages(sharer.pid(), &sharer.addresses(), targets).context(|| "move_pages")
    }

    /// On which nodes its pages are.
    pub fn nodes(&self) -> Result<Vec<i32>> {
        let sharer = &self.sharers[0];
        guest::numa::nodes_of(sharer.pid(), &sharer.addresses()).context(|| "nodes of pages")
    }

    /// Has all pages on one node.
    pub fn move_all(&self, who: usize, node: i32) -> Result {
        let targets = vec![node; self.pages as usize];
        let found = self.move_by(who, &targets)?;
        expect::eq(
            format!("pages that process {who} had moved to node {node}"),
            self.pages as usize,
            found.iter().filter(|&&found| found == node).count(),
        )?;
        self.expect_on(node, "after moving")
    }

    /// Expects all pages to be on a node.
    pub fn expect_on(&self, node: i32, when: &str) -> Result {
        let found = self.nodes()?.iter().filter(|&&found| found == node).count();
        expect::eq(
            format!("{when}: pages on node {node}"),
            self.pages as usize,
            found,
        )
    }
}

/// How many pages have another frame.
pub(super) fn changed(before: &[Frame], after: &[Frame]) -> usize {
    let pairs = before.iter().zip(after);
    pairs.filter(|(before, after)| before != after).count()
}
