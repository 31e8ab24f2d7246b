// SPDX-License-Identifier: GPL-2.0

/* <linux/mm.h> */
#include "shim.h"

struct folio *ksm_v_page_folio(struct page *page)
{
	return page_folio(page);
}

unsigned long ksm_v_page_to_pfn(const struct page *page)
{
	return page_to_pfn(page);
}

struct page *ksm_v_folio_page(struct folio *folio, size_t n)
{
	return folio_page(folio, n);
}

struct folio *ksm_v_folio_alloc(gfp_t gfp, unsigned int order)
{
	return folio_alloc(gfp, order);
}

struct folio *ksm_v_folio_alloc_node(gfp_t gfp, unsigned int order, int nid)
{
	return __folio_alloc_node(gfp, order, nid);
}

struct folio *ksm_v_vma_alloc_folio(gfp_t gfp, struct vm_area_struct *vma, unsigned long addr)
{
	return vma_alloc_folio(gfp, 0, vma, addr);
}

int ksm_v_page_to_nid(const struct page *page)
{
	return page_to_nid(page);
}

void ksm_v_folio_get(struct folio *folio)
{
	folio_get(folio);
}

bool ksm_v_folio_try_get(struct folio *folio)
{
	return folio_try_get(folio);
}

void ksm_v_folio_put(struct folio *folio)
{
	folio_put(folio);
}

void ksm_v_release_pages(struct page **pages, int count)
{
	release_pages(pages, count);
}

int ksm_v_folio_ref_count(const struct folio *folio)
{
	return folio_ref_count(folio);
}

int ksm_v_folio_mapcount(const struct folio *folio)
{
	return folio_mapcount(folio);
}

bool ksm_v_mm_is_in_use(struct mm_struct *mm)
{
	return atomic_read(&mm->mm_users) > 0;
}

void ksm_v_inc_mm_counter(struct mm_struct *mm, int member)
{
	inc_mm_counter(mm, member);
}

void ksm_v_dec_mm_counter(struct mm_struct *mm, int member)
{
	dec_mm_counter(mm, member);
}

bool ksm_v_folio_is_zone_device(const struct folio *folio)
{
	return folio_is_zone_device(folio);
}

const unsigned long *ksm_v_mm_saved_auxv(const struct mm_struct *mm)
{
	return mm->saved_auxv;
}

unsigned long ksm_v_mm_start_stack(const struct mm_struct *mm)
{
	return READ_ONCE(mm->start_stack);
}

bool ksm_v_mm_forbids_zeropage(struct mm_struct *mm)
{
	return mm_forbids_zeropage(mm);
}

unsigned long ksm_v_vma_start(const struct vm_area_struct *vma)
{
	return READ_ONCE(vma->vm_start);
}

vm_flags_t ksm_v_vma_flags(const struct vm_area_struct *vma)
{
	return READ_ONCE(vma->vm_flags);
}

bool ksm_v_vma_has_anon_vma(const struct vm_area_struct *vma)
{
	return READ_ONCE(vma->anon_vma);
}

bool ksm_v_vma_is_dax(const struct vm_area_struct *vma)
{
	return vma_is_dax(vma);
}

bool ksm_v_vma_is_special(const struct vm_area_struct *vma)
{
	return READ_ONCE(vma->vm_flags) & VM_SPECIAL;
}

pgprot_t ksm_v_vma_page_prot(const struct vm_area_struct *vma)
{
	return READ_ONCE(vma->vm_page_prot);
}

void ksm_v_vma_iter_init(struct vma_iterator *vmi, struct mm_struct *mm, unsigned long addr)
{
	vma_iter_init(vmi, mm, addr);
}

long ksm_v_get_nr_swap_pages(void)
{
	return get_nr_swap_pages();
}

unsigned long ksm_v_totalram_pages(void)
{
	return totalram_pages();
}

struct vm_area_struct *ksm_v_vmf_vma(const struct vm_fault *vmf)
{
	return vmf->vma;
}

unsigned long ksm_v_vmf_address(const struct vm_fault *vmf)
{
	return vmf->address;
}

pte_t ksm_v_vmf_orig_pte(const struct vm_fault *vmf)
{
	return vmf->orig_pte;
}
