// SPDX-License-Identifier: GPL-2.0

//! Storage for tables whose allocations fail as planned.

use engine::Storage;
use std::cell::RefCell;
use std::rc::Rc;

/// Which allocations succeed.
#[derive(Clone, Debug, Default)]
pub enum Plan {
    /// All of them.
    #[default]
    Ample,
    /// The next allocations up to this number, and none after them.
    Only(usize),
    /// As in this list, which repeats.
    Repeat(Vec<bool>),
}

#[derive(Default)]
struct State {
    plan: Plan,
    allocations: usize,
    failures: usize,
    truncates: bool,
}

/// The storage. Clones are the same storage.
#[derive(Clone, Default)]
pub struct Memory(Rc<RefCell<State>>);

impl Memory {
    /// Makes storage that follows this plan.
    pub fn new(plan: Plan) -> Self {
        let memory = Memory::default();
        memory.set_plan(plan);
        memory
    }

    /// Changes the plan.
    pub fn set_plan(&self, plan: Plan) {
        self.0.borrow_mut().plan = plan;
    }

    /// Sets whether blocks can be truncated from now on.
    pub fn set_truncates(&self, truncates: bool) {
        self.0.borrow_mut().truncates = truncates;
    }

    /// Number of allocations, successful or not.
    pub fn allocations(&self) -> usize {
        self.0.borrow().allocations
    }

    /// Number of failed allocations.
    pub fn failures(&self) -> usize {
        self.0.borrow().failures
    }
}

impl<T: Clone + Default> Storage<T> for Memory {
    type Block = Vec<T>;

    fn allocate(&self, len: usize) -> Option<Vec<T>> {
        let state = &mut *self.0.borrow_mut();
        let turn = state.allocations;
        state.allocations += 1;
        let granted = match &mut state.plan {
            Plan::Ample => true,
            Plan::Only(left) if *left > 0 => {
                *left -= 1;
                true
            }
            Plan::Only(_) => false,
            Plan::Repeat(answers) => answers[turn % answers.len()],
        };
        state.failures += usize::from(!granted);
        granted.then(|| vec![T::default(); len])
    }

    fn can_truncate(&self, _block: &Vec<T>) -> bool {
        self.0.borrow().truncates
    }

    fn truncate(&self, block: &mut Vec<T>, len: usize) {
        block.truncate(len);
        block.shrink_to_fit();
    }
}
