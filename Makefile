# SPDX-License-Identifier: GPL-2.0
#
# Targets for people; kbuild reads Kbuild. `make help` lists each target whose line
# ends in "## text".

.DEFAULT_GOAL := module
.PHONY: all module install package clean help setup stock debug uml demo test test-debug test-uml soak bench \
	fmt lint rust-analyzer
.PHONY: test-tools test-matrix attack site bench-uml bench-host fuzz coverage deny

KDIR ?= /lib/modules/$(shell uname -r)/build
SRC := $(CURDIR)
ROOT := scripts/root --

# The stock kernel is built in the root: there KDIR is in the environment, and the
# output goes to the cache, not into this directory.
STOCK := $(ROOT) scripts/build stock

all: module

module: preflight ## build ksm_v.ko here against KDIR (default: the running kernel)
	+$(MAKE) -C $(KDIR) M=$(SRC) modules

.PHONY: preflight
preflight: ## name what is missing to build against KDIR
	@scripts/preflight $(KDIR)

install: module install-tools ## install ksm_v.ko where modprobe finds it, and ksmv
	+$(MAKE) -C $(KDIR) M=$(SRC) modules_install
	depmod $(addprefix -b ,$(INSTALL_MOD_PATH)) $$(cat $(KDIR)/include/config/kernel.release)

VERSION = $(shell scripts/version)

# The tree that DKMS builds from. Its file VERSION holds the whole version.
DKMS_TREE = $(DESTDIR)/usr/src/ksm-veridian-$(VERSION)
DKMS_FILES := COPYING Kbuild Makefile dkms.conf ksm_veridian.rs rust sysfs \
	scripts/dkms scripts/lib.sh scripts/preflight scripts/version scripts/kernel/prepare.sh

install-dkms: ## install the source for DKMS (DESTDIR)
	mkdir -p $(DKMS_TREE)
	cp -r --parents --no-preserve=ownership $(DKMS_FILES) $(DKMS_TREE)
	echo $(VERSION) >$(DKMS_TREE)/VERSION
	sed -i 's/#MODULE_VERSION#/$(VERSION)/' $(DKMS_TREE)/dkms.conf

package: setup ## build the Debian packages
	@scripts/package

.PHONY: prebuilt release
prebuilt: setup ## build and try packages with the compiled module (KERNELS=stock ... KEY=PEM CERTIFICATE=DER)
	@scripts/prebuilt $(addprefix --key ,$(KEY)) $(addprefix --certificate ,$(CERTIFICATE)) $(KERNELS)

release: setup ## make the tarball of a release, and build from it
	@scripts/release

PREFIX ?= /usr/local
PLACE = $(DESTDIR)$(PREFIX)
# The administrator's file: never overwritten.
SETTINGS = $(DESTDIR)/etc/ksm-veridian.conf
BASH_COMPLETION = $(PLACE)/share/bash-completion/completions/ksmv
# Debian's zsh has a directory of its own for packages.
ZSH_FUNCTIONS ?= $(PREFIX)/share/zsh/site-functions
ZSH_COMPLETION = $(DESTDIR)$(ZSH_FUNCTIONS)/_ksmv
FISH_COMPLETION = $(PLACE)/share/fish/vendor_completions.d/ksmv.fish

.PHONY: install-dkms install-tools install-service
install-service:
	install -D -m 755 scripts/settings $(PLACE)/libexec/ksm-veridian/settings
	sed -i 's,^KSMV=/usr,KSMV=$(PREFIX),' $(PLACE)/libexec/ksm-veridian/settings
	[ -e $(SETTINGS) ] || install -D -m 644 package/ksm-veridian.conf $(SETTINGS)
	install -D -m 644 package/ksm-veridian.service $(PLACE)/lib/systemd/system/ksm-veridian.service
	install -m 644 package/ksm-veridian-metrics.service package/ksm-veridian-metrics.timer $(PLACE)/lib/systemd/system/
	sed -i 's,/usr/\(libexec\|sbin\),$(PREFIX)/\1,' $(PLACE)/lib/systemd/system/ksm-veridian*.service

install-tools: install-service ## install ksmv, and the service with its settings (PREFIX=/usr/local DESTDIR=)
	@# No module of an earlier version stays.
	rm -rf $(PLACE)/lib/ksmv
	install -d $(PLACE)/lib/ksmv/ksmv $(PLACE)/sbin
	install -m 644 tools/ksmv/*.py $(PLACE)/lib/ksmv/ksmv/
	install -m 755 tools/ksmv/ksmv $(PLACE)/lib/ksmv/ksmv/
	echo $(VERSION) >$(PLACE)/lib/ksmv/VERSION
	ln -sf ../lib/ksmv/ksmv/ksmv $(PLACE)/sbin/ksmv
	install -D -m 644 Documentation/ksmv.8 $(PLACE)/share/man/man8/ksmv.8
	install -d $(PLACE)/share/man/man4 $(PLACE)/share/man/man5
	scripts/manpages $(PLACE)/share/man/man4
	mv $(PLACE)/share/man/man4/*.5 $(PLACE)/share/man/man5/
	install -D -m 644 tools/ksmv/completion.bash $(BASH_COMPLETION)
	install -D -m 644 tools/ksmv/completion.zsh $(ZSH_COMPLETION)
	install -D -m 644 tools/ksmv/completion.fish $(FISH_COMPLETION)
	sed -i 's,/usr/sbin,$(PREFIX)/sbin,' $(BASH_COMPLETION) $(ZSH_COMPLETION) $(FISH_COMPLETION)

.PHONY: uninstall
uninstall: ## remove what `make install` and `make install-tools` installed, but not the settings
	rm -f $(PLACE)/libexec/ksm-veridian/settings $(PLACE)/sbin/ksmv
	rm -f $(PLACE)/lib/systemd/system/ksm-veridian.service $(PLACE)/lib/systemd/system/ksm-veridian-metrics.*
	rm -rf $(PLACE)/lib/ksmv
	rm -f $(PLACE)/share/man/man4/ksm_v.4 $(PLACE)/share/man/man5/ksm-veridian.conf.5
	rm -f $(PLACE)/share/man/man8/ksmv.8
	rm -f $(BASH_COMPLETION) $(ZSH_COMPLETION) $(FISH_COMPLETION)
	rm -f $(INSTALL_MOD_PATH)/lib/modules/*/updates/ksm_v.ko*
	@-rmdir -p $(PLACE)/libexec/ksm-veridian 2>/dev/null
	$(if $(DESTDIR),,-depmod $(addprefix -b ,$(INSTALL_MOD_PATH)))

clean: ## remove what was built here and in the cache
	+$(if $(wildcard $(KDIR)/Makefile),$(MAKE) -C $(KDIR) M=$(SRC) clean)
	scripts/clean

setup: ## make the root, the stock kernel's Rust metadata, the crates: once
	@scripts/setup

stock: setup ## build ksm_v.ko against Debian's stock kernel, without touching this host
	@$(STOCK)

debug: ## make a kernel that checks itself, once, and build ksm_v.ko against it
	@scripts/setup --kernel debug
	@scripts/build debug

uml: ## make User-Mode Linux, once, and build ksm_v.ko against it
	@scripts/setup --kernel uml
	@scripts/build uml

demo: stock ## see it save memory under real applications on a stock kernel
	@demo/run

test: setup ## host tests, lints and guest tests (SUITES=names for some of them)
	@scripts/test $(SUITES)

test-debug: setup ## all guest tests on the debug kernel, also those too slow for `make test`
	@scripts/test debug

test-uml: setup ## the guest tests that User-Mode Linux can run, on that
	@scripts/test uml

test-matrix: ## guest tests on Debian's kernels that have Rust, and on own ones (SUITES=names for others)
	@scripts/matrix $(SUITES)

test-tools: setup ## run programs made for mainline's KSM on the module
	@scripts/test tools

# Duration, kernel and seed; without SEED the clock gives the seed.
soak: SECONDS ?= 3600
soak: KERNEL ?= stock
soak: setup ## stress the module for an hour (SECONDS=3600 KERNEL=stock|debug|uml SEED=number)
	@scripts/soak --kernel $(KERNEL) --seconds $(SECONDS) $(addprefix --seed ,$(SEED))

attack: stock ## tell by a million timed writes what processes learn of each other
	@scripts/attack

bench: stock ## measure the scanner against mainline's ksmd
	@scripts/bench

bench-uml: ## the same natively, on User-Mode Linux without checks, made once
	@scripts/setup --kernel uml-fast
	@scripts/build uml-fast
	@scripts/bench --native

bench-host: setup ## measure the engine natively, against mainline's way
	@scripts/hostbench

site: ## make a site of the documentation, for a browser
	@scripts/site

lint: setup ## only the lints of `make test`
	@scripts/test lint

fuzz: setup ## fuzz the engine (RUNS=executions of each target)
	@scripts/fuzz $(addprefix --runs ,$(RUNS))

coverage: setup ## the lines of the engine that the host tests reach
	@scripts/coverage --missed

deny: setup ## check licenses and sources of the crates that the tests use
	@scripts/deny

fmt: setup ## format all Rust files as the kernel does
	@$(ROOT) scripts/build fmt

rust-analyzer: stock ## write rust-project.json for editors
	@scripts/build rust-analyzer

help: ## this list
	@echo 'usage: make [TARGET] [KDIR=kernel tree]'
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  \1\t\2/p' Makefile | expand -t 18
