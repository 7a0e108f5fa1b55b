import GatewayRouting

extension RetryPolicy {
    func covers(_ failure: UpstreamFailure) -> Bool {
        switch failure {
        case .connect: !self.conditions.isDisjoint(with: [.connectFailure, .gatewayError, .serverError])
        case .refused: !self.conditions.isDisjoint(with: [.refusedStream, .gatewayError, .serverError])
        case .reset, .malformed, .timeout: !self.conditions.isDisjoint(with: [.reset, .gatewayError, .serverError])
        }
    }

    func covers(status: Int) -> Bool {
        self.conditions.contains { condition in
            switch condition {
            case .gatewayError: (502...504).contains(status)
            case .serverError: status >= 500
            case .retriable4xx: status == 409
            case .status(let number): status == Int(number)
            case .connectFailure, .refusedStream, .reset: false
            }
        }
    }
}
