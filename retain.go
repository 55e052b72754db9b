package diverted

import (
	"context"
	"time"
)

// retainEvery is how often a Run looks for what is no longer kept.
const retainEvery = time.Minute

// retain has the store delete what Config.Retention does not keep, until ctx ends. A store that fails is
// asked again at the next time.
func (d *Dispatcher) retain(ctx context.Context) {
	store, ok := d.store.(RetentionStore)
	if !ok {
		return
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		for ctx.Err() == nil && d.purge(ctx, store) {
		}
		timer.Reset(retainEvery)
	}
}

// purge makes a step, tells what it deleted, and says whether there may be more.
func (d *Dispatcher) purge(ctx context.Context, store RetentionStore) (more bool) {
	call, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	result, err := store.Purge(call, PurgeRequest{Retention: d.config.Retention})
	for _, p := range result.Webhooks {
		d.log.Warn("diverted: retention deleted events", append(logWebhook(p.Webhook), "diverted", p.Diverted, "pending", p.Pending)...)
		observed(d, d.config.Observer.Purged, p)
	}
	if err != nil {
		if ctx.Err() == nil {
			d.log.Error("diverted: retention could not delete; it is tried again in a minute", "error", err)
		}
		return false
	}
	return result.More
}
