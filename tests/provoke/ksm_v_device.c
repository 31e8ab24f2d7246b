// SPDX-License-Identifier: GPL-2.0
/*
 * A device with its own memory, and its driver, like amdgpu, xe and nouveau (Documentation/mm/hmm.rst).
 * The debugfs file ksm_v_device accepts these lines:
 *
 *   watch PID            inserts an interval notifier for one page of the address space, as for memory that
 *                        the device maps; it stays until the module is unloaded
 *   offer PID ADDR N     calls migrate_vma_setup() for N pages, then migrate_vma_finalize(): nothing moves
 *   move PID ADDR N      the same, and moves each page to another frame of system memory in between
 *   take PID ADDR N      the same, to memory of the device that the CPU can't read (MEMORY_DEVICE_PRIVATE):
 *                        a fault brings a page back
 *
 * Reading the file returns how many pages the last line moved; for "offer", how many could have been moved.
 */

#include <linux/debugfs.h>
#include <linux/delay.h>
#include <linux/highmem.h>
#include <linux/ioport.h>
#include <linux/memremap.h>
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

#ifdef CONFIG_DEVICE_PRIVATE

/* Frame numbers without memory. Each page in use has a page of system memory for its content. */
static struct dev_pagemap device_memory;
static bool has_device_memory;
/* Linked by zone_device_data. */
static struct page *free_pages_of_device;
static unsigned int pages_in_use;
static DEFINE_SPINLOCK(free_lock);

static struct page *content_of(struct page *page)
{
	return is_device_private_page(page) ? page->zone_device_data : page;
}

static void add_free(struct page *page)
{
	spin_lock(&free_lock);
	page->zone_device_data = free_pages_of_device;
	free_pages_of_device = page;
	spin_unlock(&free_lock);
}

static void device_folio_free(struct folio *folio)
{
	__free_page(folio_page(folio, 0)->zone_device_data);
	add_free(folio_page(folio, 0));
	spin_lock(&free_lock);
	pages_in_use--;
	spin_unlock(&free_lock);
}

/* A locked page of the device; NULL if there is none. */
static struct page *alloc_device_page(void)
{
	struct page *content = alloc_page(GFP_HIGHUSER);
	struct page *page;

	if (!content)
		return NULL;
	spin_lock(&free_lock);
	page = free_pages_of_device;
	if (page) {
		free_pages_of_device = page->zone_device_data;
		pages_in_use++;
	}
	spin_unlock(&free_lock);
	if (!page) {
		__free_page(content);
		return NULL;
	}
	zone_device_page_init(page, &device_memory, 0);
	page->zone_device_data = content;
	return page;
}

/* Handles a fault of a CPU on a page of the device: returns it to system memory, in all its mappings. */
static vm_fault_t device_migrate_to_ram(struct vm_fault *vmf)
{
	unsigned long src = 0, dst = 0;
	struct migrate_vma args = {
		.vma = vmf->vma,
		.start = vmf->address,
		.end = vmf->address + PAGE_SIZE,
		.src = &src,
		.dst = &dst,
		.pgmap_owner = &watched,
		.flags = MIGRATE_VMA_SELECT_DEVICE_PRIVATE,
		.fault_page = vmf->page,
	};
	struct page *page = alloc_page(GFP_HIGHUSER_MOVABLE);

	if (!page)
		return VM_FAULT_OOM;
	if (migrate_vma_setup(&args)) {
		__free_page(page);
		return VM_FAULT_SIGBUS;
	}
	if (src & MIGRATE_PFN_MIGRATE) {
		copy_highpage(page, content_of(migrate_pfn_to_page(src)));
		lock_page(page);
		dst = migrate_pfn(page_to_pfn(page));
	} else {
		__free_page(page);
	}
	migrate_vma_pages(&args);
	migrate_vma_finalize(&args);
	return 0;
}

static const struct dev_pagemap_ops device_memory_ops = {
	.folio_free = device_folio_free,
	.migrate_to_ram = device_migrate_to_ram,
};

static int make_device_memory(void)
{
	struct resource *region;
	void *mapped;

	if (has_device_memory)
		return 0;
	region = request_free_mem_region(&iomem_resource, SZ_128M, "ksm_v_device");
	if (IS_ERR(region))
		return PTR_ERR(region);
	device_memory.type = MEMORY_DEVICE_PRIVATE;
	device_memory.range.start = region->start;
	device_memory.range.end = region->end;
	device_memory.nr_range = 1;
	device_memory.ops = &device_memory_ops;
	device_memory.owner = &watched;
	mapped = memremap_pages(&device_memory, numa_node_id());
	if (IS_ERR(mapped)) {
		release_mem_region(region->start, resource_size(region));
		return PTR_ERR(mapped);
	}
	has_device_memory = true;
	for (unsigned long i = 0; i < MOST_PAGES; i++)
		add_free(pfn_to_page(PHYS_PFN(region->start) + i));
	return 0;
}

/* Returns all pages that are still on the device, as before it is unplugged. */
static void evict(void)
{
	unsigned long first = PHYS_PFN(device_memory.range.start);
	static unsigned long src[MOST_PAGES], dst[MOST_PAGES];

	migrate_device_range(src, first, MOST_PAGES);
	for (unsigned long i = 0; i < MOST_PAGES; i++) {
		struct page *page;

		dst[i] = 0;
		if (!(src[i] & MIGRATE_PFN_MIGRATE))
			continue;
		page = alloc_page(GFP_HIGHUSER_MOVABLE | __GFP_NOFAIL);
		copy_highpage(page, content_of(migrate_pfn_to_page(src[i])));
		lock_page(page);
		dst[i] = migrate_pfn(page_to_pfn(page));
	}
	migrate_device_pages(src, dst, MOST_PAGES);
	migrate_device_finalize(src, dst, MOST_PAGES);
}

static void drop_device_memory(void)
{
	if (!has_device_memory)
		return;
	for (evict(); READ_ONCE(pages_in_use); evict())
		msleep(10);
	memunmap_pages(&device_memory);
	release_mem_region(device_memory.range.start, range_len(&device_memory.range));
}

#else

static struct page *content_of(struct page *page)
{
	return page;
}

static struct page *alloc_device_page(void)
{
	return NULL;
}

static int make_device_memory(void)
{
	return -EOPNOTSUPP;
}

static void drop_device_memory(void)
{
}

#endif

static struct page *alloc_system_page(void)
{
	struct page *page = alloc_page(GFP_HIGHUSER_MOVABLE);

	if (page)
		lock_page(page);
	return page;
}

/* Returns the entry of a new, locked page with the content of the source; 0 if there is no such page. */
static unsigned long new_place(unsigned long src, struct page *(*alloc)(void))
{
	struct page *page;

	if (!(src & MIGRATE_PFN_MIGRATE))
		return 0;
	page = alloc();
	if (!page)
		return 0;
	if (migrate_pfn_to_page(src))
		copy_highpage(content_of(page), migrate_pfn_to_page(src));
	else
		clear_highpage(content_of(page));
	return migrate_pfn(page_to_pfn(page));
}

static unsigned long move_to_new_places(struct migrate_vma *args, unsigned long pages,
					struct page *(*alloc)(void))
{
	unsigned long i, moved = 0;

	for (i = 0; i < pages; i++)
		args->dst[i] = new_place(args->src[i], alloc);
	migrate_vma_pages(args);
	for (i = 0; i < pages; i++)
		moved += !!(args->src[i] & MIGRATE_PFN_MIGRATE);
	return moved;
}

/* Without alloc, only offers the pages. */
static int migrate(struct mm_struct *mm, unsigned long addr, unsigned long pages,
		   struct page *(*alloc)(void))
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
		if (alloc)
			last_moved = move_to_new_places(&args, pages, alloc);
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
	else if (!strcmp(what, "offer"))
		err = migrate(mm, addr, pages, NULL);
	else if (!strcmp(what, "move"))
		err = migrate(mm, addr, pages, alloc_system_page);
	else if (!strcmp(what, "take"))
		err = make_device_memory() ?: migrate(mm, addr, pages, alloc_device_page);
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
	drop_device_memory();
	while (watches)
		mmu_interval_notifier_remove(&watched[--watches]);
}

module_init(device_init);
module_exit(device_exit);
MODULE_DESCRIPTION("Moves pages as the driver of a device does");
MODULE_LICENSE("GPL");
