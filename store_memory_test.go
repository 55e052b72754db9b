package diverted_test

import (
	"testing"

	"github.com/divertedevents/diverted"
	"github.com/divertedevents/diverted/storetest"
)

func TestMemoryStoreKeepsTheContract(t *testing.T) {
	storetest.Run(t, storetest.Harness{
		Open: func(*testing.T) diverted.Store { return diverted.NewMemoryStore() },
	})
}
