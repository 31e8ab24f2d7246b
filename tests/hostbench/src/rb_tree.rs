// SPDX-License-Identifier: GPL-2.0

//! Mainline's way, as `cmp_and_merge_page()` of `mm/ksm.c` does it for a page that is like no other:
//! the checksum of the whole page, to see whether it has changed since the last pass, and then a
//! search in the unstable tree, a red-black tree in the order of contents that is made anew in each
//! pass.

use crate::memory::Page;
use intrusive_collections::intrusive_adapter;
use intrusive_collections::rbtree::Entry;
use intrusive_collections::KeyAdapter;
use intrusive_collections::RBTree;
use intrusive_collections::RBTreeLink;
use xxhash_rust::xxh64::xxh64;

/// What is kept of a page, as ksmd's `struct ksm_rmap_item`.
struct Item<'a> {
    link: RBTreeLink,
    page: &'a Page,
}

intrusive_adapter!(Items<'a> = Box<Item<'a>>: Item<'a> { link: RBTreeLink });

impl<'a> KeyAdapter<'a> for Items<'_> {
    type Key = &'a Page;

    fn get_key(&self, item: &'a Item<'_>) -> &'a Page {
        item.page
    }
}

/// The checksums of the last pass.
pub struct Tree {
    checksums: Vec<u64>,
}

impl Tree {
    /// Makes a tree for this number of pages.
    pub fn new(pages: usize) -> Self {
        Tree {
            checksums: vec![0; pages],
        }
    }

    /// Goes over all pages once. Returns how many equal another.
    pub fn pass(&mut self, pages: &[Page]) -> usize {
        let mut unstable = RBTree::new(Items::new());
        let mut alike = 0;
        for (checksum, page) in self.checksums.iter_mut().zip(pages) {
            let before = std::mem::replace(checksum, xxh64(page, 0));
            if *checksum != before {
                continue;
            }
            match unstable.entry(page) {
                Entry::Occupied(_) => alike += 1,
                Entry::Vacant(place) => {
                    place.insert(Box::new(Item {
                        link: RBTreeLink::new(),
                        page,
                    }));
                }
            }
        }
        alike
    }
}
