/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Parts of the kernel that the Rust code uses but can't call directly: inline
 * functions and macros, each as a function of one .c file per C header, and
 * constants. Names are the kernel's with the prefix ksm_v_. There is no logic
 * here, with four exceptions: functions that are called for every page table
 * entry, or for every merged page in each pass, and combine several calls
 * (pgtable.c, page_flags.c); functions that read whole pages (pages.c); one static
 * function of the kernel (mmap_lock.c); and functions that run in place of the
 * kernel's (redirect.c).
 *
 * Rust declarations are generated from this header (see Kbuild), so that every
 * type is checked against the kernel the module is built for. Functions which
 * the kernel declares but does not export are defined in imports.c.
 */
#ifndef KSM_V_SHIM_H
#define KSM_V_SHIM_H

#include <linux/cgroup.h>
#include <linux/cred.h>
#include <linux/fs.h>
#include <linux/highmem.h>
#include <linux/irq_work.h>
#include <linux/kobject.h>
#include <linux/kprobes.h>
#include <linux/ksm.h>
#include <linux/kthread.h>
#include <linux/memcontrol.h>
#include <linux/memory_hotplug.h>
#include <linux/mm.h>
#include <linux/huge_mm.h>
#include <linux/mmap_lock.h>
#include <linux/mmu_notifier.h>
#include <linux/pagewalk.h>
#include <linux/pid.h>
#include <linux/pid_namespace.h>
#include <linux/ptrace.h>
#include <linux/rmap.h>
#include <linux/sched.h>
#include <linux/sched/coredump.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/shrinker.h>
#include <linux/slab.h>
#include <linux/swap.h>
#include <linux/timekeeping.h>
#include <linux/user_namespace.h>
#include <linux/userfaultfd_k.h>
#include <linux/workqueue.h>
#include <linux/xarray.h>
#include "trace.h"

#ifndef CONFIG_MEMCG
#error "ksm_v needs CONFIG_MEMCG=y: mm->owner tells whose memory an mm is"
#endif

#ifndef CONFIG_PAGE_SIZE_4KB
#error "ksm_v needs CONFIG_PAGE_SIZE_4KB=y: rust/engine compares 4096 bytes"
#endif

#ifdef __BINDGEN__
/* Constants, for the generated declarations only. */

/* <linux/gfp.h>: a merged page that can't be moved must not be allocated from a movable block. */
const gfp_t KSM_V_GFP_SHARED = GFP_HIGHUSER | __GFP_NORETRY | __GFP_NOWARN;
const gfp_t KSM_V_GFP_MOVABLE = __GFP_MOVABLE;
const gfp_t KSM_V_GFP_THISNODE = __GFP_THISNODE;
/* Allocates a page as a fault does, but never invokes the OOM killer. */
const gfp_t KSM_V_GFP_ASK = GFP_HIGHUSER_MOVABLE | __GFP_NORETRY | __GFP_NOWARN;
const gfp_t KSM_V_GFP_ASK_ZEROED = GFP_HIGHUSER_MOVABLE | __GFP_ZERO | __GFP_NORETRY | __GFP_NOWARN;
/* Allocations for tables fail rather than invoke the OOM killer. */
const gfp_t KSM_V_GFP_TABLE = GFP_KERNEL | __GFP_ZERO | __GFP_NORETRY | __GFP_NOWARN;

/* For tables that grow under locks which reclaim takes, too. */
const gfp_t KSM_V_GFP_NOWAIT_TABLE = GFP_NOWAIT | __GFP_ZERO | __GFP_NOWARN;

/* <linux/auxvec.h>, <linux/mm_types.h> */
const unsigned long KSM_V_AT_SECURE = AT_SECURE;
const size_t KSM_V_AT_VECTOR_SIZE = AT_VECTOR_SIZE;

/* <linux/mm.h> */
const vm_flags_t KSM_V_VM_DROPPABLE = VM_DROPPABLE;
const vm_flags_t KSM_V_VM_SHADOW_STACK = VM_SHADOW_STACK;
const vm_flags_t KSM_V_VM_LOCKED = VM_LOCKED;
const vm_flags_t KSM_V_VM_WIPEONFORK = VM_WIPEONFORK;
const vm_flags_t KSM_V_VM_DONTDUMP = VM_DONTDUMP;
const vm_flags_t KSM_V_VM_DONTCOPY = VM_DONTCOPY;
const vm_flags_t KSM_V_VM_MERGEABLE = VM_MERGEABLE;
const vm_flags_t KSM_V_VM_STACK_INCOMPLETE_SETUP = VM_STACK_INCOMPLETE_SETUP;
const vm_flags_t KSM_V_VM_HUGETLB = VM_HUGETLB;
/* Either makes a mapping shared. */
const vm_flags_t KSM_V_VM_SHARED = VM_SHARED | VM_MAYSHARE;

/* <linux/rmap.h> */
const rmap_t KSM_V_RMAP_EXCLUSIVE = RMAP_EXCLUSIVE;
const unsigned int KSM_V_PVMW_SYNC = PVMW_SYNC;

/* <linux/userfaultfd_k.h> */
/* All modes of userfaultfd but that for missing pages: those that watch pages which are there. */
#ifdef CONFIG_USERFAULTFD
const vm_flags_t KSM_V_VM_UFFD_PRESENT = __VM_UFFD_FLAGS & ~VM_UFFD_MISSING;
#else
const vm_flags_t KSM_V_VM_UFFD_PRESENT = VM_NONE;
#endif

/* <linux/userfaultfd.h> */
const unsigned int KSM_V_UFFDIO_REGISTER = UFFDIO_REGISTER;

#ifdef CONFIG_X86_MCE
/* <asm/extable_fixup_types.h>, <asm/asm.h> */
const u32 KSM_V_EX_TYPE_DEFAULT_MCE_SAFE = EX_TYPE_DEFAULT_MCE_SAFE;
const u32 KSM_V_EXTABLE_SIZE = EXTABLE_SIZE;
#endif

/* <linux/huge_mm.h>: HPAGE_PMD_NR is not defined without huge pages. */
#ifdef CONFIG_TRANSPARENT_HUGEPAGE
const unsigned long KSM_V_HPAGE_PMD_NR = HPAGE_PMD_NR;
#else
const unsigned long KSM_V_HPAGE_PMD_NR = 1;
#endif

/* <linux/page-flags.h> */
const unsigned long KSM_V_FOLIO_MAPPING_ANON = FOLIO_MAPPING_ANON;
const unsigned long KSM_V_FOLIO_MAPPING_KSM = FOLIO_MAPPING_KSM;
const unsigned long KSM_V_FOLIO_MAPPING_FLAGS = FOLIO_MAPPING_FLAGS;

#endif

/* imports.c */
int ksm_v_imports_resolve(void);
int ksm_v_redirect_imports_resolve(void);
/* NULL if the kernel has no such symbol. */
void *ksm_v_lookup(const char *name);
struct kobject *ksm_v_mm_kobj(void);
atomic_long_t *ksm_v_ksm_zero_pages(void);
long ksm_v_ksm_zero_pages_read(void);
void ksm_v_ksm_zero_pages_add(long pages);

/* <asm/barrier.h> */
void ksm_v_smp_rmb(void);

/* <linux/cgroup.h> */
u64 ksm_v_task_cgroup_id(struct task_struct *task);

/* <linux/cred.h>, <linux/user_namespace.h> */
const struct cred *ksm_v_task_cred(struct task_struct *task);
u32 ksm_v_user_ns_root(struct user_namespace *ns);
u32 ksm_v_user_ns_owner(const struct user_namespace *ns);

/* <linux/debugfs.h> */
struct dentry *ksm_v_debugfs_create_dir(const char *name);
void ksm_v_debugfs_create_file(const char *name, umode_t mode, struct dentry *parent,
			       void *data, const struct file_operations *fops);
void ksm_v_debugfs_remove(struct dentry *dentry);

/* <linux/fs.h> */
umode_t ksm_v_file_mode(const struct file *file);

/* <linux/highmem.h> */
/* Nonzero if the memory of @from has failed; the kernel was informed. */
int ksm_v_copy_mc_highpage(struct page *to, struct page *from);

/* <linux/huge_mm.h> */
spinlock_t *ksm_v_pmd_trans_huge_lock(pmd_t *pmd, struct vm_area_struct *vma);
int ksm_v_split_huge_page(struct page *page);

/* <linux/irq_work.h> */
void ksm_v_init_irq_work(struct irq_work *work, void (*func)(struct irq_work *));

/* <linux/kprobes.h> */
int ksm_v_register_kprobe(struct kprobe *probe);
void ksm_v_unregister_kprobe(struct kprobe *probe);

/* <linux/ksm.h> */
bool ksm_v_is_ksm_zero_pte(pte_t pte);
/* Whether a mapping of the zero page has no mark. */
bool ksm_v_is_plain_zero_pte(pte_t pte);
/* A mapping of the zero page with the mark that is_ksm_zero_pte() recognises. */
pte_t ksm_v_pte_mark_zero(pte_t pte);
void ksm_v_ksm_map_zero_page(struct mm_struct *mm);
void ksm_v_ksm_might_unmap_zero_page(struct mm_struct *mm, pte_t pte);
long ksm_v_mm_ksm_zero_pages(struct mm_struct *mm);
void ksm_v_mm_ksm_zero_pages_sub(struct mm_struct *mm, long pages);
bool ksm_v_mm_is_ksm_mergeable(struct mm_struct *mm);

/* <linux/memcontrol.h> */
int ksm_v_mem_cgroup_charge(struct folio *folio, struct mm_struct *mm, gfp_t gfp);
struct task_struct *ksm_v_mm_owner(struct mm_struct *mm);
unsigned int ksm_v_memcg_nr_pages_over_high(void);
void ksm_v_memcg_set_nr_pages_over_high(unsigned int pages);

/* <linux/mm.h> */
struct folio *ksm_v_page_folio(struct page *page);
unsigned long ksm_v_page_to_pfn(const struct page *page);
struct page *ksm_v_folio_page(struct folio *folio, size_t n);
struct folio *ksm_v_folio_alloc(gfp_t gfp, unsigned int order);
struct folio *ksm_v_folio_alloc_node(gfp_t gfp, unsigned int order, int nid);
struct folio *ksm_v_vma_alloc_folio(gfp_t gfp, struct vm_area_struct *vma, unsigned long addr);
int ksm_v_page_to_nid(const struct page *page);
void ksm_v_folio_get(struct folio *folio);
bool ksm_v_folio_try_get(struct folio *folio);
void ksm_v_folio_put(struct folio *folio);
void ksm_v_release_pages(struct page **pages, int count);
struct vm_area_struct *ksm_v_vmf_vma(const struct vm_fault *vmf);
unsigned long ksm_v_vmf_address(const struct vm_fault *vmf);
pte_t ksm_v_vmf_orig_pte(const struct vm_fault *vmf);
int ksm_v_folio_ref_count(const struct folio *folio);
int ksm_v_folio_mapcount(const struct folio *folio);
bool ksm_v_mm_is_in_use(struct mm_struct *mm);
void ksm_v_inc_mm_counter(struct mm_struct *mm, int member);
void ksm_v_dec_mm_counter(struct mm_struct *mm, int member);
unsigned long ksm_v_vma_start(const struct vm_area_struct *vma);
vm_flags_t ksm_v_vma_flags(const struct vm_area_struct *vma);
bool ksm_v_vma_has_anon_vma(const struct vm_area_struct *vma);
bool ksm_v_folio_is_zone_device(const struct folio *folio);
const unsigned long *ksm_v_mm_saved_auxv(const struct mm_struct *mm);
unsigned long ksm_v_mm_start_stack(const struct mm_struct *mm);
bool ksm_v_mm_forbids_zeropage(struct mm_struct *mm);
bool ksm_v_vma_is_dax(const struct vm_area_struct *vma);
bool ksm_v_vma_is_special(const struct vm_area_struct *vma);
pgprot_t ksm_v_vma_page_prot(const struct vm_area_struct *vma);
unsigned long ksm_v_totalram_pages(void);
long ksm_v_get_nr_swap_pages(void);
void ksm_v_vma_iter_init(struct vma_iterator *vmi, struct mm_struct *mm, unsigned long addr);

/* <linux/psi.h> */
#ifdef CONFIG_PSI
struct psi_group;
const struct psi_group *ksm_v_psi_system(void);
#endif
unsigned long ksm_v_memory_pressure(void);

/* <linux/timekeeping.h> */
u64 ksm_v_ktime_get_boottime_ns(void);

/* <linux/memory_hotplug.h> */
struct page *ksm_v_pfn_to_online_page(unsigned long pfn);
/* <linux/memremap.h>: whether the merged page with this index is on @pfn, in the memory of a device. */
bool ksm_v_is_merged_on_device(unsigned long pfn, pgoff_t index);

/* <linux/mmap_lock.h> */
bool ksm_v_vma_start_read(struct mm_struct *mm, struct vm_area_struct *vma,
			  struct mm_struct **other);
bool ksm_v_vma_start_read_locked(struct vm_area_struct *vma);

/* <linux/mmu_notifier.h> */
void ksm_v_mmu_notifier_range_init(struct mmu_notifier_range *range, struct mm_struct *mm,
				   unsigned long start, unsigned long end);
int ksm_v_mmu_notifier_invalidate_range_start_nonblock(struct mmu_notifier_range *range);
void ksm_v_mmu_notifier_invalidate_range_end(struct mmu_notifier_range *range);
bool ksm_v_mm_has_interval_notifiers(struct mm_struct *mm);

/* <linux/page-flags.h>, <linux/pagemap.h> */
bool ksm_v_folio_test_large(const struct folio *folio);
unsigned int ksm_v_folio_nr_pages(const struct folio *folio);
/* @folio must be large. */
bool ksm_v_folio_test_partially_mapped(const struct folio *folio);
bool ksm_v_folio_test_swapcache(const struct folio *folio);
bool ksm_v_folio_test_hugetlb(const struct folio *folio);
bool ksm_v_page_anon_exclusive(const struct page *page);
bool ksm_v_page_hwpoison(const struct page *page);
/* Whether the memory of the frame has failed. Takes no reference. */
bool ksm_v_pfn_hwpoison(unsigned long pfn);
/* Whether the frame is part of a large folio. Takes no reference. */
bool ksm_v_pfn_is_large(unsigned long pfn);
const void *ksm_v_page_address(const struct page *page);
bool ksm_v_page_mte_tagged(const struct page *page);
bool ksm_v_folio_trylock(struct folio *folio);
pgoff_t ksm_v_folio_index(const struct folio *folio);
void ksm_v_folio_set_index(struct folio *folio, pgoff_t index);
void ksm_v_folio_set_active(struct folio *folio);
int ksm_v_merged_mapcount(unsigned long pfn, pgoff_t index);
unsigned long ksm_v_folio_raw_mapping(const struct folio *folio);
void ksm_v_folio_set_raw_mapping(struct folio *folio, unsigned long mapping);
void ksm_v_folio_mark_uptodate(struct folio *folio);
void ksm_v_folio_set_swapbacked(struct folio *folio);

/* <linux/pgtable.h> */
/* What a page table entry maps, as far as rust/mm/walk.rs needs it. */
struct ksm_v_mapped {
	/* NULL if vm_normal_page() returns no page, as for the zero page. */
	struct page *page;
	unsigned long pfn;
	unsigned long mapping;
	/* The content of the page, in the linear mapping. */
	const void *words;
	bool poisoned;
	/* Whether the entry is present; if not, all else is zero, as if page is NULL. */
	bool present;
};
/*
 * Places in a page of which the cache lines are fetched ahead of their use: none, the
 * first one, or all of them if count is more than 1.
 */
struct ksm_v_places {
	unsigned int count;
	u16 offsets[4];
};
void ksm_v_ptes_mapped(pte_t *first, struct vm_area_struct *vma, unsigned long addr,
		       const struct ksm_v_places *places, struct ksm_v_mapped *mapped,
		       unsigned int count);
void ksm_v_pages_mapped(struct page *first, const struct ksm_v_places *places,
			struct ksm_v_mapped *mapped, unsigned int count);
u32 ksm_v_ptes_digest(pte_t *first, unsigned long entries, u32 *pages);
pte_t ksm_v_ptep_get(pte_t *ptep);
pte_t ksm_v_ptep_get_and_clear(struct mm_struct *mm, unsigned long addr, pte_t *ptep);
unsigned long ksm_v_pte_pfn(pte_t pte);
void ksm_v_pte_unmap_unlock(pte_t *ptep, spinlock_t *ptl);
bool ksm_v_pte_present(pte_t pte);
bool ksm_v_pte_dirty(pte_t pte);
bool ksm_v_pte_soft_dirty(pte_t pte);
bool ksm_v_pte_uffd(pte_t pte);
pte_t ksm_v_pte_mksoft_dirty(pte_t pte);
pte_t ksm_v_pte_mkclean(pte_t pte);
pte_t ksm_v_mk_pte(const struct page *page, pgprot_t prot);
pte_t ksm_v_mk_ksm_zero_pte(unsigned long addr, pgprot_t prot);
pte_t ksm_v_mk_copied_pte(pte_t old, const struct page *copy, pgprot_t prot);
void ksm_v_set_pte_at(struct mm_struct *mm, unsigned long addr, pte_t *ptep, pte_t pte);
bool ksm_v_pmd_trans_huge(pmd_t *pmd);
struct page *ksm_v_pmd_page(pmd_t *pmd);

/* <linux/module.h>: references to this module. */
bool ksm_v_try_module_get(void);
void ksm_v_module_put(void);

/* <linux/pid.h> */
struct pid *ksm_v_find_ge_pid(int nr);
int ksm_v_pid_nr(struct pid *pid);

/* <linux/ptrace.h> */
/* 0 if the kernel can't read arguments. */
unsigned long ksm_v_regs_get_kernel_argument(struct pt_regs *regs, unsigned int n);

/* <linux/rmap.h> */
void ksm_v_folio_vma_walk_init(struct page_vma_mapped_walk *walk, struct folio *folio,
			       struct vm_area_struct *vma, unsigned long addr, unsigned int flags);
void ksm_v_page_vma_mapped_walk_done(struct page_vma_mapped_walk *walk);
int ksm_v_folio_try_share_anon_rmap_pte(struct folio *folio, struct page *page);

/* <linux/rmap.h>, mm/internal.h */
struct anon_vma *ksm_v_vma_anon_vma(const struct vm_area_struct *vma);
/* NULL if the VMA has no anon_vma. */
struct anon_vma *ksm_v_vma_anon_vma_root(const struct vm_area_struct *vma);
void ksm_v_get_anon_vma(struct anon_vma *anon_vma);
/* May sleep. */
void ksm_v_put_anon_vma(struct anon_vma *anon_vma);
/* Whether no VMA is linked in the tree of the anon_vma, for certain. Tries to take the lock. */
bool ksm_v_anon_vma_is_unused(struct anon_vma *anon_vma);
bool ksm_v_anon_vma_trylock_read(struct anon_vma *anon_vma);
void ksm_v_anon_vma_lock_read(struct anon_vma *anon_vma);
void ksm_v_anon_vma_unlock_read(struct anon_vma *anon_vma);
/* The VMAs that may map a page at this index. The anon_vma lock must be held. */
struct anon_vma_chain *ksm_v_anon_vma_first(struct anon_vma *anon_vma, pgoff_t index);
struct anon_vma_chain *ksm_v_anon_vma_next(struct anon_vma_chain *chain, pgoff_t index);
struct vm_area_struct *ksm_v_anon_vma_chain_vma(const struct anon_vma_chain *chain);
pgoff_t ksm_v_anon_index(const struct vm_area_struct *vma, unsigned long addr);
unsigned long ksm_v_anon_address(const struct vm_area_struct *vma, pgoff_t index);
#ifndef __BINDGEN__
#ifndef anon_rmap_tree_foreach
struct anon_vma_chain *
anon_vma_interval_tree_iter_first(struct rb_root_cached *root, unsigned long start, unsigned long last);
struct anon_vma_chain *
anon_vma_interval_tree_iter_next(struct anon_vma_chain *node, unsigned long start, unsigned long last);
#endif
void __put_anon_vma(struct anon_vma *anon_vma);
void lru_add_drain(void);
struct task_struct *task_early_kill(struct task_struct *tsk, int force_early);
void add_to_kill_ksm(struct task_struct *tsk, const struct page *p, struct vm_area_struct *vma,
		     struct list_head *to_kill, unsigned long addr);
#endif

/* redirect.c */
/* Redirects the kernel's functions, so that they find the sharers of merged pages. */
int ksm_v_redirect_begin(void);
void ksm_v_redirect_end(void);
/* Drains the LRU batches of this CPU. Must be called only while functions are redirected. */
void ksm_v_lru_add_drain(void);
/* rust/mm/rmap_ksm.rs */
void ksm_v_walk_sharers(struct folio *folio, struct rmap_walk_control *rwc);

/* <linux/sched.h>, <linux/sched/signal.h>, <linux/sched/task.h> */
bool ksm_v_task_is_kthread(const struct task_struct *task);
u64 ksm_v_task_sum_exec_runtime(const struct task_struct *task);
void ksm_v_task_lock(struct task_struct *task);
void ksm_v_task_unlock(struct task_struct *task);
struct mm_struct *ksm_v_task_mm(struct task_struct *task);
struct task_struct *ksm_v_task_group_leader(const struct task_struct *task);
/* NULL if the task has been reaped. */
struct task_struct *ksm_v_task_real_parent(const struct task_struct *task);
struct task_struct *ksm_v_next_thread(struct task_struct *task);
u64 ksm_v_task_start_time(const struct task_struct *task);
bool ksm_v_task_is_forked(const struct task_struct *task);
int ksm_v_task_tgid(const struct task_struct *task);
bool ksm_v_task_is_new(const struct task_struct *task);
bool ksm_v_task_is_dumpable(struct task_struct *task);
void ksm_v_cond_resched_tasks_rcu_qs(void);
void ksm_v_get_task_comm(char *buf, struct task_struct *task);

/* <linux/sched/mm.h> */
unsigned int ksm_v_memalloc_noreclaim_save(void);
void ksm_v_memalloc_noreclaim_restore(unsigned int flags);

/* <linux/shrinker.h> */
typedef unsigned long ksm_v_shrink_fn(struct shrinker *shrinker, struct shrink_control *control);
struct shrinker *ksm_v_shrinker_new(const char *name, ksm_v_shrink_fn *count,
				    ksm_v_shrink_fn *scan, void *data);
void *ksm_v_shrinker_data(struct shrinker *shrinker);
unsigned long ksm_v_shrink_count(struct shrink_control *control);
void ksm_v_shrinker_free(struct shrinker *shrinker);

/* <linux/slab.h>, <linux/gfp.h> */
void *ksm_v_alloc_pages_exact(size_t size, gfp_t gfp);
void ksm_v_free_pages_exact(void *addr, size_t size);
void *ksm_v_kvmalloc(size_t size, gfp_t gfp);
void *ksm_v_krealloc(void *addr, size_t size, gfp_t gfp);

/* <linux/spinlock.h> */
void ksm_v_spin_unlock(spinlock_t *lock);
bool ksm_v_spin_is_contended(spinlock_t *lock);

/* <asm/tlb.h> */
void ksm_v_flush_tlb_ptes(struct vm_area_struct *vma, unsigned long start, unsigned long end);

/* <linux/userfaultfd_k.h> */
/* The address space in which this userfaultfd may move pages (UFFDIO_MOVE); NULL if it may not. */
struct mm_struct *ksm_v_userfaultfd_mover(const struct file *file);
/* The VMA lock or the mmap lock must be held. */
bool ksm_v_vma_is_moved_to(const struct vm_area_struct *vma);

/* pages.c: functions that read whole pages. Must not be called in an interrupt. */
#ifdef CONFIG_X86_64
bool ksm_v_pages_same(const void *a, const void *b);
bool ksm_v_page_is_zero(const void *a);
#endif
#ifdef CONFIG_X86_MCE
bool ksm_v_page_is_readable(const void *page);
#endif

/* <linux/vmstat.h> */
unsigned long ksm_v_cow_ksm_events(void);

/* <linux/workqueue.h> */
void ksm_v_init_work(struct work_struct *work, work_func_t func);
bool ksm_v_queue_work(struct workqueue_struct *wq, struct work_struct *work);
/* Calls ksm_v_tidy() after @ms milliseconds, and again after as many as it returns, until that is 0. */
void ksm_v_tidy_later(u32 ms);
void ksm_v_tidy_end(void);
/* rust/mm/sharers/sweep.rs */
u32 ksm_v_tidy(void);

/* <linux/xarray.h> */
struct xarray *ksm_v_xa_anon_vmas(void);
int ksm_v_xa_alloc(struct xarray *xa, u32 *number, void *thing, u32 most, gfp_t gfp);

#endif
