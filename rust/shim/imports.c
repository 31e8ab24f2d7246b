// SPDX-License-Identifier: GPL-2.0
/*
 * Functions and data which the kernel declares in its headers but may not
 * export to modules. Symbols that it does export (with patches/mm-export.patch,
 * for example) are linked: Kbuild looks up each name below in Module.symvers and
 * defines KSM_V_EXPORTED_name.
 *
 * For each other function the module defines the declared name itself, as a
 * single jump, which is patched at load (a static call) into a direct jump to the
 * kernel's function. So inline functions of the kernel's headers that call such a
 * function work unchanged, the compiler checks prototypes, and nothing is called
 * through a pointer: kernels with CONFIG_X86_KERNEL_IBT seal functions whose
 * address the kernel does not take, and an indirect call to one is fatal. (If an
 * architecture has no static calls, as arm64 without CONFIG_CFI,
 * <linux/static_call.h> makes each of them a call through a pointer.)
 */

#include <linux/kallsyms.h>
#include <linux/kprobes.h>
#include <linux/module.h>
#include <linux/static_call.h>
#include "shim.h"
#include <linux/psi.h>

/*
 * X(name, return type, parameters, arguments), in the order of use: to select
 * page table entries, to find all mappings of a frame, to replace a mapping, and
 * to account for an anonymous page.
 */
#define KSM_V_IMPORTS(X)								\
	X(task_exec_state_get_dumpable, enum task_dumpable,				\
	  (struct task_struct *task), (task))						\
	X(get_mm_exe_file, struct file *, (struct mm_struct *mm), (mm))			\
	X(walk_page_range_vma, int,							\
	  (struct vm_area_struct *vma, unsigned long start, unsigned long end,		\
	   const struct mm_walk_ops *ops, void *private),				\
	  (vma, start, end, ops, private))						\
	X(pte_offset_map_lock, pte_t *,							\
	  (struct mm_struct *mm, pmd_t *pmd, unsigned long addr, spinlock_t **ptlp),	\
	  (mm, pmd, addr, ptlp))							\
	X(vm_normal_page, struct page *,						\
	  (struct vm_area_struct *vma, unsigned long addr, pte_t pte),			\
	  (vma, addr, pte))								\
	X(rmap_walk, void,								\
	  (struct folio *folio, struct rmap_walk_control *rwc), (folio, rwc))		\
	X(folio_lock_anon_vma_read, struct anon_vma *,					\
	  (const struct folio *folio, struct rmap_walk_control *rwc), (folio, rwc))	\
	X(page_vma_mapped_walk, bool,							\
	  (struct page_vma_mapped_walk *pvmw), (pvmw))					\
	X(ptep_clear_flush, pte_t,							\
	  (struct vm_area_struct *vma, unsigned long addr, pte_t *ptep),		\
	  (vma, addr, ptep))								\
	X(tlb_gather_mmu, void, (struct mmu_gather *tlb, struct mm_struct *mm), (tlb, mm)) \
	X(tlb_finish_mmu, void, (struct mmu_gather *tlb), (tlb))			\
	X(folio_add_anon_rmap_ptes, void,						\
	  (struct folio *folio, struct page *page, int nr, struct vm_area_struct *vma,	\
	   unsigned long addr, rmap_t flags), (folio, page, nr, vma, addr, flags))	\
	X(folio_add_new_anon_rmap, void,						\
	  (struct folio *folio, struct vm_area_struct *vma, unsigned long addr,		\
	   rmap_t flags), (folio, vma, addr, flags))					\
	X(folio_remove_rmap_ptes, void,							\
	  (struct folio *folio, struct page *page, int nr, struct vm_area_struct *vma),	\
	  (folio, page, nr, vma))							\
	X(mm_trace_rss_stat, void, (struct mm_struct *mm, int member), (mm, member))	\
	X(folio_free_swap, bool, (struct folio *folio), (folio))			\
	X(__mem_cgroup_charge, int,							\
	  (struct folio *folio, struct mm_struct *mm, gfp_t gfp), (folio, mm, gfp))	\
	X(lru_add_drain_all, void, (void), ())

#ifdef CONFIG_MMU_NOTIFIER
#define KSM_V_NOTIFIER_IMPORTS(X)							\
	X(__mmu_notifier_invalidate_range_start, int,					\
	  (struct mmu_notifier_range *range), (range))					\
	X(__mmu_notifier_invalidate_range_end, void,					\
	  (struct mmu_notifier_range *range), (range))
#else
#define KSM_V_NOTIFIER_IMPORTS(X)
#endif

#ifdef CONFIG_TRANSPARENT_HUGEPAGE
#define KSM_V_HUGE_IMPORTS(X)								\
	X(__pmd_trans_huge_lock, spinlock_t *,						\
	  (pmd_t *pmd, struct vm_area_struct *vma), (pmd, vma))				\
	X(__split_huge_page_to_list_to_order, int,					\
	  (struct page *page, struct list_head *list, unsigned int new_order),		\
	  (page, list, new_order))
#else
#define KSM_V_HUGE_IMPORTS(X)
#endif

/* set_ptes() calls this for entries that allow memory tags. */
#ifdef CONFIG_ARM64_MTE
#define KSM_V_TAG_IMPORTS(X)								\
	X(mte_sync_tags, void, (pte_t pte, unsigned int nr_pages), (pte, nr_pages))
#else
#define KSM_V_TAG_IMPORTS(X)
#endif

/* Imports for the redirects of redirect.c. Without these, merged pages can't be moved. */
#ifdef CONFIG_DYNAMIC_FTRACE_WITH_ARGS
#ifdef anon_rmap_tree_foreach
#define KSM_V_TREE_IMPORTS(R)								\
	R(anon_rmap_tree_iter_first, struct anon_vma_chain *,				\
	  (struct anon_vma *anon_vma, pgoff_t start, pgoff_t last), (anon_vma, start, last)) \
	R(anon_rmap_tree_iter_next, struct anon_vma_chain *,				\
	  (struct anon_vma_chain *chain, pgoff_t start, pgoff_t last), (chain, start, last))
#else
#define KSM_V_TREE_IMPORTS(R)								\
	R(anon_vma_interval_tree_iter_first, struct anon_vma_chain *,			\
	  (struct rb_root_cached *root, unsigned long start, unsigned long last),	\
	  (root, start, last))								\
	R(anon_vma_interval_tree_iter_next, struct anon_vma_chain *,			\
	  (struct anon_vma_chain *chain, unsigned long start, unsigned long last),	\
	  (chain, start, last))
#endif
#ifdef CONFIG_MEMORY_FAILURE
#define KSM_V_FAILURE_IMPORTS(R)							\
	R(task_early_kill, struct task_struct *,					\
	  (struct task_struct *task, int force_early), (task, force_early))		\
	R(add_to_kill_ksm, void,							\
	  (struct task_struct *task, const struct page *page, struct vm_area_struct *vma, \
	   struct list_head *to_kill, unsigned long addr), (task, page, vma, to_kill, addr))
#else
#define KSM_V_FAILURE_IMPORTS(R)
#endif
#define KSM_V_REDIRECT_IMPORTS(R)							\
	KSM_V_TREE_IMPORTS(R) KSM_V_FAILURE_IMPORTS(R)					\
	R(__put_anon_vma, void, (struct anon_vma *anon_vma), (anon_vma))		\
	R(lru_add_drain, void, (void), ())
#else
#define KSM_V_REDIRECT_IMPORTS(R)
#endif

#define KSM_V_ALL_IMPORTS(X) \
	KSM_V_IMPORTS(X) KSM_V_NOTIFIER_IMPORTS(X) KSM_V_HUGE_IMPORTS(X) KSM_V_TAG_IMPORTS(X)

/* Expands macro_0 for a symbol that is not exported, macro_1 for one that is. */
#define KSM_V_BY_EXPORT(macro, name, ...) \
	CONCATENATE(macro, __is_defined(KSM_V_EXPORTED_##name))(name, ##__VA_ARGS__)

#define KSM_V_DEFINE_1(name, ...)
#define KSM_V_DEFINE_0(name, type, params, args)		\
	DEFINE_STATIC_CALL_NULL(ksm_v_import_##name, name);	\
	type name params					\
	{							\
		return static_call(ksm_v_import_##name) args;	\
	}
#define KSM_V_DEFINE(name, ...) KSM_V_BY_EXPORT(KSM_V_DEFINE_, name, __VA_ARGS__)

KSM_V_ALL_IMPORTS(KSM_V_DEFINE)
KSM_V_REDIRECT_IMPORTS(KSM_V_DEFINE)

struct ksm_v_import {
	const char *name;
	struct static_call_key *key;
	void *trampoline;
};

#define KSM_V_LIST_1(name, ...)
#define KSM_V_LIST_0(fn, type, params, args)					\
	{									\
		.name = #fn,							\
		.key = &STATIC_CALL_KEY(ksm_v_import_##fn),			\
		.trampoline = STATIC_CALL_TRAMP_ADDR(ksm_v_import_##fn),	\
	},
#define KSM_V_LIST(name, ...) KSM_V_BY_EXPORT(KSM_V_LIST_, name, __VA_ARGS__)

static const struct ksm_v_import imports[] = {
	KSM_V_ALL_IMPORTS(KSM_V_LIST)
};

static const struct ksm_v_import redirect_imports[] = {
	KSM_V_REDIRECT_IMPORTS(KSM_V_LIST)
};

#if defined(CONFIG_MMU_NOTIFIER) && defined(CONFIG_LOCKDEP) && \
	!defined(KSM_V_EXPORTED___mmu_notifier_invalidate_range_start_map)
/* mmu_notifier_invalidate_range_start() reports this map to lockdep. Ours is a class of its own. */
struct lockdep_map __mmu_notifier_invalidate_range_start_map = {
	.name = "mmu_notifier_invalidate_range_start"
};
#endif

DEFINE_STATIC_CALL_NULL(ksm_v_kallsyms, kallsyms_lookup_name);

/* Data: D(name, type). Always read through the pointers, because not all symbols can be linked. */
#define KSM_V_DATA(D)			\
	D(mm_kobj, struct kobject *)	\
	D(ksm_zero_pages, atomic_long_t)

#define KSM_V_POINTER_1(name, type) static type *name##_symbol = &name;
#define KSM_V_POINTER_0(name, type) static type *name##_symbol;
#define KSM_V_POINTER(name, ...) KSM_V_BY_EXPORT(KSM_V_POINTER_, name, __VA_ARGS__)

KSM_V_DATA(KSM_V_POINTER)

/* Optional data: merging works without it. */
#ifdef CONFIG_PSI
#define KSM_V_OPTIONAL_DATA(D)		\
	D(psi_system, struct psi_group)
#else
#define KSM_V_OPTIONAL_DATA(D)
#endif

KSM_V_OPTIONAL_DATA(KSM_V_POINTER)

struct ksm_v_datum {
	const char *name;
	void **pointer;
};

#define KSM_V_DATUM_1(name, type)
#define KSM_V_DATUM_0(datum, type) { .name = #datum, .pointer = (void **)&datum##_symbol },
#define KSM_V_DATUM(name, ...) KSM_V_BY_EXPORT(KSM_V_DATUM_, name, __VA_ARGS__)

static const struct ksm_v_datum data[] = {
	KSM_V_DATA(KSM_V_DATUM)
};

static const struct ksm_v_datum optional_data[] = {
	KSM_V_OPTIONAL_DATA(KSM_V_DATUM)
};

struct kobject *ksm_v_mm_kobj(void)
{
	return *mm_kobj_symbol;
}

atomic_long_t *ksm_v_ksm_zero_pages(void)
{
	return ksm_zero_pages_symbol;
}

#ifdef CONFIG_PSI
const struct psi_group *ksm_v_psi_system(void)
{
	return psi_system_symbol;
}
#endif

/* Finds kallsyms_lookup_name(), which is not exported, by a probe on it. */
#ifdef CONFIG_KPROBES
static int resolve_lookup(void)
{
	struct kprobe probe = { .symbol_name = "kallsyms_lookup_name" };
	int err = register_kprobe(&probe);

	if (err) {
		pr_err("ksm_v: can't probe kallsyms_lookup_name (%d)\n", err);
		return -ENOENT;
	}
	static_call_update(ksm_v_kallsyms, (void *)probe.addr);
	unregister_kprobe(&probe);
	return 0;
}
#else
static int resolve_lookup(void)
{
	pr_err("ksm_v: this kernel has no kprobes, and does not export all symbols that merging needs\n");
	return -ENOENT;
}
#endif

/*
 * The address of a kernel symbol, or NULL. The lookup also finds symbols of modules,
 * and this module defines functions of the same names: these are ignored.
 */
void *ksm_v_lookup(const char *name)
{
	unsigned long addr = static_call(ksm_v_kallsyms)(name);

	return within_module(addr, THIS_MODULE) ? NULL : (void *)addr;
}

/* As ksm_v_lookup(), but logs the name if there is no such symbol. */
static void *find(const char *name)
{
	void *addr = ksm_v_lookup(name);

	if (!addr)
		pr_err("ksm_v: this kernel has no symbol %s, which merging needs\n", name);
	return addr;
}

static int resolve_functions(const struct ksm_v_import *wanted, size_t count,
			     void *(*find_one)(const char *name))
{
	for (size_t i = 0; i < count; i++) {
		void *addr = find_one(wanted[i].name);

		if (!addr)
			return -ENOENT;
		__static_call_update(wanted[i].key, wanted[i].trampoline, addr);
	}
	return 0;
}

static int resolve_data(void)
{
	for (size_t i = 0; i < ARRAY_SIZE(data); i++) {
		*data[i].pointer = find(data[i].name);
		if (!*data[i].pointer)
			return -ENOENT;
	}
	for (size_t i = 0; i < ARRAY_SIZE(optional_data); i++)
		*optional_data[i].pointer = ksm_v_lookup(optional_data[i].name);
	return 0;
}

/* Makes every import usable. Logs the name and returns -ENOENT if one is missing. */
int ksm_v_imports_resolve(void)
{
	if (!ARRAY_SIZE(imports) && !ARRAY_SIZE(data))
		return 0;
	return resolve_lookup() ?: resolve_functions(imports, ARRAY_SIZE(imports), find) ?:
	       resolve_data();
}

/* Makes the imports for the redirects usable. Must be called after the function above; logs nothing. */
int ksm_v_redirect_imports_resolve(void)
{
	/* If the kernel exports everything else, kallsyms_lookup_name() was not looked up yet. */
	if (IS_ENABLED(CONFIG_KPROBES) && !static_call_query(ksm_v_kallsyms))
		resolve_lookup();
	if (!static_call_query(ksm_v_kallsyms))
		return -ENOENT;
	return resolve_functions(redirect_imports, ARRAY_SIZE(redirect_imports), ksm_v_lookup);
}
