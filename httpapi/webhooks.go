package httpapi

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"time"

	"github.com/divertedevents/diverted"
	"github.com/divertedevents/diverted/internal/requests"
	"github.com/oklog/ulid/v2"
)

func (h *Handler) createWebhook(c *call) (answer, error) {
	raw, err := c.readBody(maxBody)
	if err != nil {
		return answer{}, err
	}
	var f faults
	webhook, shown := h.readCreateWebhook(&f, raw)
	webhook.Tenant, webhook.Locator = c.tenant, ulid.Make()
	f.Merge("", webhook.Validate())
	if err := f.Err(errBody); err != nil {
		return answer{}, err
	}
	webhook, err = h.config.Webhooks.CreateWebhook(c.r.Context(), webhook)
	if err != nil {
		return answer{}, err
	}
	return ok(newWebhookResponse(webhook, shown))
}

func (h *Handler) fetchWebhook(c *call) (answer, error) {
	webhook, err := h.config.Webhooks.FetchWebhook(c.r.Context(), c.webhookKey())
	if err != nil {
		return answer{}, err
	}
	return ok(newWebhookResponse(webhook, shown{}))
}

// maxUpdates bounds how often an update is tried again because somebody else changed the webhook meanwhile.
const maxUpdates = 8

func (h *Handler) updateWebhook(c *call) (answer, error) {
	raw, err := c.readBody(maxBody)
	if err != nil {
		return answer{}, err
	}
	var f faults
	update := h.readUpdateWebhook(&f, raw)
	f.Merge("", updateFaults(update))
	if err := f.Err(errBody); err != nil {
		return answer{}, err
	}
	for range maxUpdates {
		var stand, next diverted.Webhook
		stand, err = h.config.Webhooks.FetchWebhook(c.r.Context(), c.webhookKey())
		if err != nil {
			return answer{}, err
		}
		complete, shown := withSecrets(update, stand)
		next, err = stand.Apply(complete)
		if err != nil {
			f.Merge("", err)
			return answer{}, f.Err(errBody)
		}
		next, err = h.config.Webhooks.UpdateWebhook(c.r.Context(), next)
		if err == nil {
			return ok(newWebhookResponse(next, shown))
		}
		if !errors.Is(err, diverted.ErrConflict) {
			break
		}
	}
	return answer{}, err
}

func (h *Handler) deleteWebhook(c *call) (answer, error) {
	var f faults
	discard := c.flag(&f, "discard")
	if err := f.Err(errParameter); err != nil {
		return answer{}, err
	}
	if err := h.config.Webhooks.DeleteWebhook(c.r.Context(), c.webhookKey(), discard != nil && *discard); err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusNoContent}, nil
}

// discardPermissions: to discard the events of a webhook is to delete them.
func discardPermissions(query url.Values) []Permission {
	if query.Get("discard") == "true" {
		return []Permission{DivertedDelete}
	}
	return nil
}

func (h *Handler) suspendWebhook(c *call) (answer, error) {
	if err := h.config.Webhooks.Suspend(c.r.Context(), c.webhookKey()); err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusNoContent}, nil
}

func (h *Handler) unsuspendWebhook(c *call) (answer, error) {
	if err := h.config.Webhooks.Unsuspend(c.r.Context(), c.webhookKey()); err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusNoContent}, nil
}

// maxWebhooks is the greatest page of webhooks: near its limits each is 25 KB.
const maxWebhooks = 100

func (h *Handler) listWebhooks(c *call) (answer, error) {
	var f faults
	query := diverted.WebhookQuery{
		Tenant:     c.tenant,
		Name:       c.label(&f, "name"),
		Enabled:    c.flag(&f, "enabled"),
		Suspended:  c.flag(&f, "suspended"),
		Active:     c.flag(&f, "active"),
		EventTypes: c.eventTypes(&f, "eventTypes"),
	}
	query.Offset, query.Limit, query.After = c.page(&f, maxWebhooks)
	if err := f.Err(errParameter); err != nil {
		return answer{}, err
	}
	page, err := h.config.Webhooks.ListWebhooks(c.r.Context(), query)
	if err != nil {
		return answer{}, err
	}
	a, err := ok(webhookListResponse{
		ListCompleted: !page.More,
		Items:         each(page.Webhooks, func(w diverted.Webhook) webhookResponse { return newWebhookResponse(w, shown{}) }),
	})
	if n := len(page.Webhooks); page.More && n > 0 {
		a.header = c.next(query.Limit, page.Webhooks[n-1].Locator)
	}
	return a, err
}

// Pinger makes test attempts. [diverted.Dispatcher] is one.
type Pinger interface {
	// Ping makes one attempt to deliver a test event to the webhook, at once and outside the queue. It
	// changes nothing in the store. [diverted.ErrNotFound] if there is no such webhook.
	Ping(ctx context.Context, webhook diverted.WebhookKey) (diverted.PingResult, error)
}

func (h *Handler) pingWebhook(c *call) (answer, error) {
	// Looked up first: an unknown webhook must not take a place in the limiter.
	if _, err := h.config.Webhooks.FetchWebhook(c.r.Context(), c.webhookKey()); err != nil {
		return answer{}, err
	}
	if wait := h.pings.Take(c.webhookKey(), time.Now()); wait > 0 {
		return answer{}, requests.Later(errTooOften, wait)
	}
	result, err := h.config.Pinger.Ping(c.r.Context(), c.webhookKey())
	if err != nil {
		return answer{}, err
	}
	return ok(newPingResponse(result))
}
