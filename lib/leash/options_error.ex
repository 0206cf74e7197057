defmodule Leash.OptionsError do
  @moduledoc """
  The error of an option that cannot be used. Nothing was started.

  The public fields are `:key` (the option, or `nil` if the whole is wrong), `:expected` (the
  accepted values, as text) and `:value` (the given value). The message does not show values of
  `:env`, because they tend to be secrets.
  """

  defexception [:key, :expected, :value]

  @type t :: %__MODULE__{key: atom() | nil, expected: String.t(), value: term()}

  @impl true
  def message(%__MODULE__{key: nil, expected: expected, value: value}),
    do: "invalid options: expected #{expected}, got: #{inspect(value)}"

  def message(%__MODULE__{key: :env, expected: expected, value: value}),
    do: "invalid value for :env option: expected #{expected}, got: #{redact(value)}"

  def message(%__MODULE__{key: key, expected: expected, value: value}),
    do: "invalid value for #{inspect(key)} option: expected #{expected}, got: #{inspect(value)}"

  defp redact({name, _value}), do: "the variable #{inspect(name)} with a value not shown"
  defp redact(value) when is_map(value) or is_list(value), do: "variables not shown"
  defp redact(value), do: inspect(value)
end
