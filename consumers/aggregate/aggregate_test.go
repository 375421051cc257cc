package aggregate

import "testing"

func TestCellsOfEachMeasure(t *testing.T) {
	h := newHub(t)
	a := h.aggregator(Options{})
	h.load(0, makeEvent(t, "ServiceOfferPublished", fields{"occurredAt": at("2025-11-10T10:00:00Z")}))
	h.load(0, makeEvent(t, "CapacityChanged", fields{"effectiveFrom": at("2025-12-10T10:00:00Z")}))
	h.load(0, makeEvent(t, "ServiceRequested", fields{"comuneCode": "999999"}), makeEvent(t, "ServiceRequested", fields{"requestId": "q2", "nomenclatureCode": "X9"}))
	h.load(0, makeEvent(t, "NeedAssessed", nil))
	h.load(0, makeEvent(t, "WaitingListChanged", nil))
	h.load(0, makeEvent(t, "BenefitDecided", nil))
	h.load(0, makeEvent(t, "ServiceDelivered", fields{"unit": "HOUR_WEEK"}))
	h.load(0, makeEvent(t, "PopulationReported", nil))
	h.load(0, makeEvent(t, "ServiceRequested", fields{"requestId": "q3", "occurredAt": at("2026-03-02T10:00:00Z")}))
	h.drain(a)
	if len(h.expected()) == 0 {
		t.Fatal("the model shows nothing")
	}
	h.agree("after a cycle")
	h.verify(a, "after a cycle")
}
