// FakeKube
