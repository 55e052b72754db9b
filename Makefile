# Everything here is a short form of commands that work without make.

.PHONY: test race lint bench micro crash cluster power churn model bulk load fuzz check

test:           ## the README's test command
	go test ./...

race:           ## in random order, under the race detector
	go test -race -shuffle=on ./...

lint:           ## silent if all is well
	gofmt -l .
	go vet ./...
	go run honnef.co/go/tools/cmd/staticcheck@v0.8.2 ./...

BENCH ?= -out ../docs
bench:          ## our figures, the bare loops' and the peers', and which aims are met; writes docs/performance.{csv,svg} and docs/performance-table.md
	cd bench && go run . $(BENCH)

micro:          ## micro-benchmarks
	go test -run '^$$' -bench . -benchmem ./...

KILLS ?= 200
ACKNOWLEDGED ?= 0
crash:          ## kills a service under load KILLS times, after ACKNOWLEDGED events at least, and counts what was lost
	CRASH_KILLS=$(KILLS) CRASH_ACKNOWLEDGED=$(ACKNOWLEDGED) go test -v -count=1 -timeout 60m -run Kills ./internal/crashtest

DELIVERIES ?= 100000
cluster:        ## three dispatchers on PostgreSQL, one killed every two seconds, and the server itself three times
	cd postgres && CRASH_KILLS=$(KILLS) CLUSTER_DELIVERIES=$(DELIVERIES) go test -v -count=1 -timeout 60m -run 'Kills|DieLoseNothing' .

REPLAYS ?= 1000
power:          ## cuts the power of an SQLite database REPLAYS times, and counts what was lost
	cd internal/powertest && POWER_REPLAYS=$(REPLAYS) go test -v -count=1 -timeout 60m -run Loses .

churn:          ## a million deliveries through one table of PostgreSQL: its size, dead rows and speed on the way
	cd postgres && CHURN_DELIVERIES=1000000 go test -v -count=1 -timeout 60m -run Churn .

STEPS ?= 1000000
model:          ## holds every store against the plain model, for about STEPS steps each
	cd internal/modeltest && MODEL_STEPS=$(STEPS) go test -v -count=1 -timeout 0 ./...

EVENTS ?= 1000000
PACE ?= 2000
bulk:           ## resends EVENTS diverted events over the API and two kills, PACE a second, and asks what other webhooks notice
	BULK_EVENTS=$(EVENTS) BULK_PACE=$(PACE) go test -v -count=1 -timeout 2h ./internal/bulktest

DURATION ?= 10m
load:           ## keeps a dispatcher under load for DURATION, and watches what it uses
	LOAD_DURATION=$(DURATION) go test -v -count=1 -timeout 60m ./internal/loadtest

FUZZTIME ?= 10m
fuzz:           ## every fuzz target for FUZZTIME, one after another
	for f in $$(grep -ro --include='*_test.go' '^func Fuzz[A-Za-z]*' . | sed 's/func //'); do \
		(cd "$$(dirname "$${f%%:*}")" && go test -run '^$$' -fuzz "^$${f##*:}\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x .) || exit 1; \
	done

check:          ## all that is checked before a change is merged
	.ci/run
