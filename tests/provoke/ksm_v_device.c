// SPDX-License-Identifier: GPL-2.0
/*
 * Does to the memory of a process what drivers of devices with memory of their own do (amdgpu, xe,
 * nouveau). Lines written to the debugfs file ksm_v_device:
 *
 *   watch PID            an interval notifier for a page of the address space, as for what the device
 *                        maps; until the module is unloaded
 *   offer PID ADDR N     migrate_vma_setup() for N pages, and migrate_vma_finalize(): nothing is moved
 *   move PID ADDR N      the same, with each page moved to another frame in between
 *
 * Reading the file tells how many pages the last line has moved, or could have.
 */

#include <linux/debugfs.h>
#include <linux/migrate.h>
#include <linux/mm.h>
#include <linux/mmu_notifier.h>
#include <linux/module.h>
#include <linux/seq_file.h>
#include <linux/slab.h>

#include "mm_of.h"

#define MOST_PAGES 1024
#define MOST_WATCHED 8

static DEFINE_MUTEX(lock);
static struct mmu_interval_notifier watched[MOST_WATCHED];
static unsigned int watches;
static unsigned long last_moved;

static bool invalidate(struct mmu_interval_notifier *notifier, const struct mmu_notifier_range *range,
		       unsigned long seq)
{
	mmu_interval_set_seq(notifier, seq);
	return true;
}

static const struct mmu_interval_notifier_ops notifier_ops = {
	.invalidate = invalidate,
};

static int watch(struct mm_struct *mm)
{
	int err;

	if (watches == MOST_WATCHED)
		return -ENOSPC;
	err = mmu_interval_notifier_insert(&watched[watches], mm, 0, PAGE_SIZE, &notifier_ops);
	if (!err)
		watches++;
	return err;
}

/* The entry of a page that is to take its place: a new one, locked. */
static unsigned long new_place(unsigned long src)
{
	struct page *page;

	if (!(src & MIGRATE_PFN_MIGRATE))
		return 0;
	page = alloc_page(GFP_HIGHUSER_MOVABLE);
	if (!page)
		return 0;
	lock_page(page);
	if (migrate_pfn_to_page(src))
		copy_highpage(page, migrate_pfn_to_page(src));
	else
		clear_highpage(page);
	return migrate_pfn(page_to_pfn(page));
}

static unsigned long move_to_new_places(struct migrate_vma *args, unsigned long pages)
{
	unsigned long i, moved = 0;

	for (i = 0; i < pages; i++)
		args->dst[i] = new_place(args->src[i]);
	migrate_vma_pages(args);
	for (i = 0; i < pages; i++)
		moved += !!(args->src[i] & MIGRATE_PFN_MIGRATE);
	return moved;
}

static int migrate(struct mm_struct *mm, unsigned long addr, unsigned long pages, bool is_to_move)
{
	struct migrate_vma args = {
		.start = addr,
		.end = addr + pages * PAGE_SIZE,
		.pgmap_owner = &watched,
		.flags = MIGRATE_VMA_SELECT_SYSTEM,
	};
	int err = -ENOMEM;

	args.src = kcalloc(2 * pages, sizeof(*args.src), GFP_KERNEL);
	if (!args.src)
		return err;
	args.dst = args.src + pages;
	mmap_read_lock(mm);
	args.vma = vma_lookup(mm, addr);
	err = args.vma && args.vma->vm_end >= args.end ? migrate_vma_setup(&args) : -EFAULT;
	if (!err) {
		last_moved = args.cpages;
		if (is_to_move)
			last_moved = move_to_new_places(&args, pages);
		migrate_vma_finalize(&args);
	}
	mmap_read_unlock(mm);
	kfree(args.src);
	return err;
}

static int obey(const char *what, int pid, unsigned long addr, unsigned long pages)
{
	struct mm_struct *mm;
	int err = -EINVAL;

	if (pages > MOST_PAGES)
		return err;
	mm = mm_of(pid);
	if (!mm)
		return -ESRCH;
	mutex_lock(&lock);
	if (!strcmp(what, "watch"))
		err = watch(mm);
	else if (!strcmp(what, "offer") || !strcmp(what, "move"))
		err = migrate(mm, addr, pages, what[0] == 'm');
	mutex_unlock(&lock);
	mmput(mm);
	return err;
}

static ssize_t device_write(struct file *file, const char __user *text, size_t len, loff_t *pos)
{
	unsigned long addr = 0, pages = 0;
	char line[64], what[8];
	int pid, err;

	if (len >= sizeof(line))
		return -EINVAL;
	if (copy_from_user(line, text, len))
		return -EFAULT;
	line[len] = '\0';
	if (sscanf(line, "%7s %d %lx %lu", what, &pid, &addr, &pages) < 2)
		return -EINVAL;
	err = obey(what, pid, addr, pages);
	return err ?: len;
}

static int device_show(struct seq_file *seq, void *unused)
{
	seq_printf(seq, "%lu\n", last_moved);
	return 0;
}

DEFINE_SHOW_STORE_ATTRIBUTE(device);

static struct dentry *dentry;

static int __init device_init(void)
{
	dentry = debugfs_create_file("ksm_v_device", 0600, NULL, NULL, &device_fops);
	return PTR_ERR_OR_ZERO(dentry);
}

static void __exit device_exit(void)
{
	debugfs_remove(dentry);
	while (watches)
		mmu_interval_notifier_remove(&watched[--watches]);
}

module_init(device_init);
module_exit(device_exit);
MODULE_DESCRIPTION("Moves pages as the driver of a device would");
MODULE_LICENSE("GPL");
