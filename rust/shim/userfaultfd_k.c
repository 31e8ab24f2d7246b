// SPDX-License-Identifier: GPL-2.0

/* <linux/userfaultfd_k.h> */
#include "shim.h"

#ifdef CONFIG_USERFAULTFD
static bool moves_pages(const struct userfaultfd_ctx *ctx)
{
	return ctx && READ_ONCE(ctx->features) & UFFD_FEATURE_MOVE;
}

struct mm_struct *ksm_v_userfaultfd_mover(const struct file *file)
{
	const struct userfaultfd_ctx *ctx = file->private_data;

	return moves_pages(ctx) ? ctx->mm : NULL;
}

bool ksm_v_vma_is_moved_to(const struct vm_area_struct *vma)
{
	return moves_pages(vma->vm_userfaultfd_ctx.ctx);
}
#else
struct mm_struct *ksm_v_userfaultfd_mover(const struct file *file)
{
	return NULL;
}

bool ksm_v_vma_is_moved_to(const struct vm_area_struct *vma)
{
	return false;
}
#endif
