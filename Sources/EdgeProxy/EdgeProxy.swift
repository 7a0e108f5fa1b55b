// EdgeProxy
