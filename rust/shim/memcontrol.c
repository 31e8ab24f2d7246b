// SPDX-License-Identifier: GPL-2.0

/* <linux/memcontrol.h> */
#include "shim.h"

int ksm_v_mem_cgroup_charge(struct folio *folio, struct mm_struct *mm, gfp_t gfp)
{
	return mem_cgroup_charge(folio, mm, gfp);
}

unsigned int ksm_v_memcg_nr_pages_over_high(void)
{
	return current->memcg_nr_pages_over_high;
}

void ksm_v_memcg_set_nr_pages_over_high(unsigned int pages)
{
	current->memcg_nr_pages_over_high = pages;
}

struct task_struct *ksm_v_mm_owner(struct mm_struct *mm)
{
	return rcu_dereference(mm->owner);
}
