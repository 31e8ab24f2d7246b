// SPDX-License-Identifier: GPL-2.0
/*
 * Functions and data which the kernel declares in its headers but does not
 * export to modules.
 *
 * Each function below is the module's own definition of the declared name: one
 * jump, patched at load (a static call) into a direct jump to the kernel's
 * function. So inline functions of the kernel's headers that need one work as
 * they are, prototypes are checked by the compiler, and nothing is ever called
 * through a pointer: kernels with CONFIG_X86_KERNEL_IBT seal functions whose
 * address nobody takes, and an indirect call to one is fatal.
 */

#include <linux/kallsyms.h>
#include <linux/kprobes.h>
#include <linux/static_call.h>
#include "shim.h"

/*
 * X(name, return type, parameters, arguments), in the order of use:
 * which page table entries to look at, how to find all mappings of a frame,
 * how to replace one, and what belongs to an anonymous page.
 */
#define KSM_V_IMPORTS(X)								\
	X(task_exec_state_get_dumpable, enum task_dumpable,				\
	  (struct task_struct *task), (task))						\
	X(lock_next_vma, struct vm_area_struct *,					\
	  (struct mm_struct *mm, struct vma_iterator *vmi, unsigned long addr),		\
	  (mm, vmi, addr))								\
	X(walk_page_range_vma, int,							\
	  (struct vm_area_struct *vma, unsigned long start, unsigned long end,		\
	   const struct mm_walk_ops *ops, void *private),				\
	  (vma, start, end, ops, private))						\
	X(pte_offset_map_lock, pte_t *,							\
	  (struct mm_struct *mm, pmd_t *pmd, unsigned long addr, spinlock_t **ptlp),	\
	  (mm, pmd, addr, ptlp))							\
	X(__pmd_trans_huge_lock, spinlock_t *,						\
	  (pmd_t *pmd, struct vm_area_struct *vma), (pmd, vma))				\
	X(vm_normal_page, struct page *,						\
	  (struct vm_area_struct *vma, unsigned long addr, pte_t pte),			\
	  (vma, addr, pte))								\
	X(rmap_walk, void,								\
	  (struct folio *folio, struct rmap_walk_control *rwc), (folio, rwc))		\
	X(page_vma_mapped_walk, bool,							\
	  (struct page_vma_mapped_walk *pvmw), (pvmw))					\
	X(__mmu_notifier_invalidate_range_start, int,					\
	  (struct mmu_notifier_range *range), (range))					\
	X(__mmu_notifier_invalidate_range_end, void,					\
	  (struct mmu_notifier_range *range), (range))					\
	X(ptep_clear_flush, pte_t,							\
	  (struct vm_area_struct *vma, unsigned long addr, pte_t *ptep),		\
	  (vma, addr, ptep))								\
	X(folio_add_anon_rmap_ptes, void,						\
	  (struct folio *folio, struct page *page, int nr, struct vm_area_struct *vma,	\
	   unsigned long addr, rmap_t flags), (folio, page, nr, vma, addr, flags))	\
	X(folio_remove_rmap_ptes, void,							\
	  (struct folio *folio, struct page *page, int nr, struct vm_area_struct *vma),	\
	  (folio, page, nr, vma))							\
	X(mm_trace_rss_stat, void, (struct mm_struct *mm, int member), (mm, member))	\
	X(folio_free_swap, bool, (struct folio *folio), (folio))			\
	X(__split_huge_page_to_list_to_order, int,					\
	  (struct page *page, struct list_head *list, unsigned int new_order),		\
	  (page, list, new_order))							\
	X(__mem_cgroup_charge, int,							\
	  (struct folio *folio, struct mm_struct *mm, gfp_t gfp), (folio, mm, gfp))	\
	X(lru_add_drain_all, void, (void), ())

#define KSM_V_DEFINE_IMPORT(name, type, params, args)		\
	DEFINE_STATIC_CALL_NULL(ksm_v_import_##name, name);	\
	type name params					\
	{							\
		return static_call(ksm_v_import_##name) args;	\
	}

KSM_V_IMPORTS(KSM_V_DEFINE_IMPORT)

struct ksm_v_import {
	const char *name;
	struct static_call_key *key;
	void *trampoline;
};

#define KSM_V_LIST_IMPORT(fn, type, params, args)				\
	{									\
		.name = #fn,							\
		.key = &STATIC_CALL_KEY(ksm_v_import_##fn),			\
		.trampoline = STATIC_CALL_TRAMP_ADDR(ksm_v_import_##fn),	\
	},

static const struct ksm_v_import imports[] = {
	KSM_V_IMPORTS(KSM_V_LIST_IMPORT)
};

DEFINE_STATIC_CALL_NULL(ksm_v_lookup, kallsyms_lookup_name);

#ifdef CONFIG_LOCKDEP
/* What mmu_notifier_invalidate_range_start() tells lockdep; here, of a class of its own. */
struct lockdep_map __mmu_notifier_invalidate_range_start_map = {
	.name = "mmu_notifier_invalidate_range_start"
};
#endif

/* Data. Read through these only: the symbols themselves can't be linked. */
static struct kobject **mm_kobj_symbol;
static atomic_long_t *ksm_zero_pages_symbol;

struct kobject *ksm_v_mm_kobj(void)
{
	return *mm_kobj_symbol;
}

atomic_long_t *ksm_v_ksm_zero_pages(void)
{
	return ksm_zero_pages_symbol;
}

/* Finds kallsyms_lookup_name(), itself not exported, by putting a probe on it. */
static int resolve_lookup(void)
{
	struct kprobe probe = { .symbol_name = "kallsyms_lookup_name" };
	int err = register_kprobe(&probe);

	if (err) {
		pr_err("ksm_v: can't probe kallsyms_lookup_name (%d): is CONFIG_KPROBES on?\n", err);
		return -ENOENT;
	}
	static_call_update(ksm_v_lookup, (void *)probe.addr);
	unregister_kprobe(&probe);
	return 0;
}

/* Address of a kernel symbol; complains by name where there is none. */
static void *lookup(const char *name)
{
	void *addr = (void *)static_call(ksm_v_lookup)(name);

	if (!addr)
		pr_err("ksm_v: this kernel has no symbol %s, which merging needs\n", name);
	return addr;
}

/* Makes every import callable. Returns -ENOENT, having named it, if one is missing. */
int ksm_v_imports_resolve(void)
{
	int err = resolve_lookup();

	if (err)
		return err;
	for (size_t i = 0; i < ARRAY_SIZE(imports); i++) {
		void *addr = lookup(imports[i].name);

		if (!addr)
			return -ENOENT;
		__static_call_update(imports[i].key, imports[i].trampoline, addr);
	}
	mm_kobj_symbol = lookup("mm_kobj");
	ksm_zero_pages_symbol = lookup("ksm_zero_pages");
	return mm_kobj_symbol && ksm_zero_pages_symbol ? 0 : -ENOENT;
}
