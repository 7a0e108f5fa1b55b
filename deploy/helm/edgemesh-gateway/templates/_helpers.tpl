{{- /* The Secret with the pre-shared key; empty if the configuration does without. */ -}}
{{- define "edgemesh.pskSecret" -}}
{{- $tunnel := default dict .Values.modules.edgeTunnel -}}
{{- $psk := default dict $tunnel.psk -}}
{{- if and $tunnel.enable (ne (toString (get $psk "enable")) "false") -}}
{{- if .Values.psk }}{{ .Release.Name }}-psk{{ else }}{{ .Values.pskSecret }}{{ end -}}
{{- end -}}
{{- end -}}

{{- /* Labels by which tools find the gateways, as those of the original. */ -}}
{{- define "edgemesh.labels" -}}
{k8s-app: kubeedge, kubeedge: edgemesh-gateway}
{{- end -}}
