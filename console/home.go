package console

import (
	"strings"

	"github.com/divertedevents/diverted/internal/locators"
	"github.com/divertedevents/diverted/internal/requests"
)

// homeView is the page that asks for a tenant.
type homeView struct{ frame }

// home asks for a tenant, and leads to it.
func (c *call) home() (answer, error) {
	s, given := c.query["tenant"]
	if !given {
		return render("home", homeView{c.frame("Console")}), nil
	}
	tenant, ok := locators.ParseUUID(strings.TrimSpace(s)) // it is pasted, with what was selected around it
	if !ok {
		return answer{}, requests.Fault(errParameter, "tenant", locators.UUIDRule)
	}
	c.tenant = tenant
	return seeOther(c.webhooksLink()), nil
}
