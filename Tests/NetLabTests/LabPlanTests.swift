import Testing

@testable import NetLab

@Suite struct LabPlanTests {
}
