// SPDX-License-Identifier: GPL-2.0

/*
 * <linux/ftrace.h>: functions of the kernel are redirected while the module is loaded, so that it finds
 * the mappings of merged pages: a KSM folio without a stable node has none for rmap_walk_ksm() and
 * collect_procs_ksm(); folio_referenced(), and what DAMON and idle page tracking have of their own in its
 * place, do not even ask.
 *
 * The redirect is made for such folios only; for all others the kernel's function runs. That is decided in
 * the ftrace handler, which counts the call before ftrace is left: unregister_ftrace_function() waits for
 * handlers that run, ksm_v_redirect_end() then for the calls they sent here, and for those that are
 * between the decrement and their return.
 *
 * FTRACE_OPS_FL_PERMANENT: a write of 0 to kernel.ftrace_enabled is refused. FTRACE_OPS_FL_IPMODIFY: only
 * one may redirect a function, so that this and a livepatch of the same function exclude each other.
 */
#include <linux/delay.h>
#include <linux/ftrace.h>
#include <linux/memory_hotplug.h>
#include <linux/mm_inline.h>
#include <linux/page_idle.h>
#include <linux/pagemap.h>
#include "shim.h"

#ifdef CONFIG_DYNAMIC_FTRACE_WITH_ARGS

/* The name and the index by which anonymous mappings are found were those of files before 7.3. */
#ifdef anon_rmap_tree_foreach
typedef vma_flags_t ksm_v_flags_t;
#define flags_clear(flags) vma_flags_clear_all(flags)
#define flags_set(flags, more) vma_flags_set_mask(flags, more)
#else
typedef vm_flags_t ksm_v_flags_t;
#define flags_clear(flags) (*(flags) = 0)
#define flags_set(flags, more) (*(flags) |= (more))
#endif

/* Calls that were redirected and have not returned. */
static atomic_t calls = ATOMIC_INIT(0);

static void walk(struct folio *folio, struct rmap_walk_control *rwc)
{
	ksm_v_walk_sharers(folio, rwc);
	atomic_dec(&calls);
}

#ifdef CONFIG_MEMORY_FAILURE
struct collection {
	const struct page *page;
	struct list_head *to_kill;
	int force_early;
};

/* As the inner loops of collect_procs_ksm(). */
static bool collect_one(struct folio *folio, struct vm_area_struct *vma, unsigned long addr, void *arg)
{
	struct collection *collection = arg;
	struct task_struct *task;

	rcu_read_lock();
	for_each_process(task) {
		struct task_struct *victim = task_early_kill(task, collection->force_early);

		if (victim && victim->mm == vma->vm_mm)
			add_to_kill_ksm(victim, collection->page, vma, collection->to_kill, addr);
	}
	rcu_read_unlock();
	return true;
}

static void collect_procs(const struct folio *folio, const struct page *page, struct list_head *to_kill,
			  int force_early)
{
	struct collection collection = {
		.page = page,
		.to_kill = to_kill,
		.force_early = force_early,
	};
	struct rmap_walk_control rwc = {
		.rmap_one = collect_one,
		.arg = &collection,
	};

	ksm_v_walk_sharers((struct folio *)folio, &rwc);
	atomic_dec(&calls);
}
#endif

/* As struct folio_referenced_arg of mm/rmap.c, which the two functions below take. */
struct referenced {
	int mapcount;
	int referenced;
	ksm_v_flags_t vma_flags;
	struct mem_cgroup *memcg;
};

/*
 * Static functions of mm/rmap.c whose addresses the kernel takes itself, so that they may be called through
 * pointers.
 */
typedef bool (*rmap_one_t)(struct folio *folio, struct vm_area_struct *vma, unsigned long addr, void *arg);
static rmap_one_t folio_referenced_one;
static bool (*invalid_folio_referenced_vma)(struct vm_area_struct *vma, void *arg);

/* As folio_referenced(), whose test for a page without an anon_vma is in the way. */
static int count_referenced(struct folio *folio, int is_locked, struct mem_cgroup *memcg,
			    ksm_v_flags_t *vma_flags)
{
	struct referenced referenced = {
		.mapcount = folio_mapcount(folio),
		.memcg = memcg,
	};
	struct rmap_walk_control rwc = {
		.rmap_one = folio_referenced_one,
		.arg = &referenced,
		.try_lock = true,
		.invalid_vma = invalid_folio_referenced_vma,
	};

	flags_clear(vma_flags);
	if (!referenced.mapcount)
		return 0;
	if (!is_locked && !folio_trylock(folio))
		return 1;
	ksm_v_walk_sharers(folio, &rwc);
	flags_set(vma_flags, referenced.vma_flags);
	if (!is_locked)
		folio_unlock(folio);
	return rwc.contended ? -1 : referenced.referenced;
}

static int referenced(struct folio *folio, int is_locked, struct mem_cgroup *memcg,
		      ksm_v_flags_t *vma_flags)
{
	int count = count_referenced(folio, is_locked, memcg, vma_flags);

	atomic_dec(&calls);
	return count;
}

#ifdef CONFIG_PAGE_IDLE_FLAG

/* As above, of mm/page_idle.c and mm/damon/ops-common.c. */
static rmap_one_t page_idle_clear_pte_refs_one, damon_folio_mkold_one, damon_folio_young_one;

static void walk_with(struct folio *folio, rmap_one_t one, void *arg)
{
	struct rmap_walk_control rwc = {
		.rmap_one = one,
		.arg = arg,
	};

	if (!folio_trylock(folio))
		return;
	ksm_v_walk_sharers(folio, &rwc);
	folio_unlock(folio);
}

/* As page_idle_clear_pte_refs(). */
static void clear_idle(struct folio *folio)
{
	if (folio_mapped(folio))
		walk_with(folio, page_idle_clear_pte_refs_one, NULL);
	atomic_dec(&calls);
}

/* As damon_folio_mkold(). */
static void make_old(struct folio *folio)
{
	if (folio_mapped(folio))
		walk_with(folio, damon_folio_mkold_one, NULL);
	else
		folio_set_idle(folio);
	atomic_dec(&calls);
}

/* As damon_folio_young(). */
static bool is_young(struct folio *folio)
{
	bool accessed = false;

	if (folio_mapped(folio))
		walk_with(folio, damon_folio_young_one, &accessed);
	else
		accessed = !folio_test_idle(folio);
	atomic_dec(&calls);
	return accessed;
}
#endif

struct redirect {
	const char *name;
	void *instead;
	/* A function that it calls: kernels that have it, and only these, have the one above. */
	const char *one_name;
	rmap_one_t *one;
	unsigned long addr;
};

static struct redirect redirects[] = {
	{ "rmap_walk_ksm", walk },
	{ "folio_referenced", referenced },
#ifdef CONFIG_MEMORY_FAILURE
	{ "collect_procs_ksm", collect_procs },
#endif
#ifdef CONFIG_PAGE_IDLE_FLAG
	{ "page_idle_clear_pte_refs", clear_idle,
	  "page_idle_clear_pte_refs_one", &page_idle_clear_pte_refs_one },
	{ "damon_folio_mkold", make_old, "damon_folio_mkold_one", &damon_folio_mkold_one },
	{ "damon_folio_young", is_young, "damon_folio_young_one", &damon_folio_young_one },
#endif
};

/* Between the beginning of a function and its call of ftrace there is no more than this (endbr). */
#define PROLOGUE 16

static void notrace handler(unsigned long ip, unsigned long parent_ip, struct ftrace_ops *ops,
			    struct ftrace_regs *fregs)
{
	/* The first argument of each. */
	const struct folio *folio = (const struct folio *)ftrace_regs_get_argument(fregs, 0);

	if ((unsigned long)READ_ONCE(folio->mapping) != FOLIO_MAPPING_KSM)
		return;
	for (size_t i = 0; i < ARRAY_SIZE(redirects); i++) {
		if (ip - redirects[i].addr < PROLOGUE) {
			atomic_inc(&calls);
			ftrace_regs_set_instruction_pointer(fregs, (unsigned long)redirects[i].instead);
			return;
		}
	}
}

static struct ftrace_ops ops = {
	.func = handler,
	.flags = FTRACE_OPS_FL_IPMODIFY | FTRACE_OPS_FL_PERMANENT,
};

static int find_functions(void)
{
	for (size_t i = 0; i < ARRAY_SIZE(redirects); i++) {
		const bool is_optional = redirects[i].one;
		int err;

		if (is_optional) {
			*redirects[i].one = ksm_v_lookup(redirects[i].one_name);
			if (!*redirects[i].one)
				continue;
		}
		redirects[i].addr = (unsigned long)ksm_v_lookup(redirects[i].name);
		/* It may be part of its callers. */
		if (!redirects[i].addr && is_optional)
			continue;
		if (!redirects[i].addr)
			return -ENOENT;
		err = ftrace_set_filter_ip(&ops, redirects[i].addr, 0, 0);
		if (err)
			return err;
	}
	folio_referenced_one = ksm_v_lookup("folio_referenced_one");
	invalid_folio_referenced_vma = ksm_v_lookup("invalid_folio_referenced_vma");
	return folio_referenced_one && invalid_folio_referenced_vma ? 0 : -ENOENT;
}

int ksm_v_redirect_begin(void)
{
	int err = ksm_v_redirect_imports_resolve() ?: find_functions() ?: register_ftrace_function(&ops);

	if (err)
		ftrace_free_filter(&ops);
	return err;
}

void ksm_v_redirect_end(void)
{
	unregister_ftrace_function(&ops);
	ftrace_free_filter(&ops);
	while (atomic_read(&calls))
		msleep(1);
	synchronize_rcu_tasks();
}

void ksm_v_lru_add_drain(void)
{
	lru_add_drain();
}

#else

void ksm_v_lru_add_drain(void)
{
}

int ksm_v_redirect_begin(void)
{
	return -EOPNOTSUPP;
}

void ksm_v_redirect_end(void)
{
}

#endif
