// SPDX-License-Identifier: GPL-2.0

/* <linux/rmap.h> */
#include "shim.h"

void ksm_v_folio_vma_walk_init(struct page_vma_mapped_walk *walk, struct folio *folio,
			       struct vm_area_struct *vma, unsigned long addr, unsigned int flags)
{
	DEFINE_FOLIO_VMA_WALK(pvmw, folio, vma, addr, flags);

	*walk = pvmw;
}

void ksm_v_page_vma_mapped_walk_done(struct page_vma_mapped_walk *walk)
{
	page_vma_mapped_walk_done(walk);
}

int ksm_v_folio_try_share_anon_rmap_pte(struct folio *folio, struct page *page)
{
	return folio_try_share_anon_rmap_pte(folio, page);
}
