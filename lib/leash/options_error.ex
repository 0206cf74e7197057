defmodule Leash.OptionsError do
  @moduledoc """
  The error of an option that cannot be used. Nothing was started.

    * `:key` - the option, or `nil` if the whole is wrong
    * `:path` - the way to the mistake if it is in nested options: `[:guard, :rss]`, or
      `[:guard, nil]` if that list as a whole is wrong. Otherwise `[]`
    * `:expected` - the accepted values, as text
    * `:value` - the given value, at the end of the path
    * `:hint` - the option or form that was probably meant, as text, or `nil`

  The message does not show values of `:env`, because they tend to be secrets.
  """

  defexception [:key, :expected, :value, :hint, path: []]

  @type t :: %__MODULE__{
          key: atom() | nil,
          path: [atom() | nil],
          expected: String.t(),
          value: term(),
          hint: String.t() | nil
        }

  @doc false
  # The error as that of an option which consists of options.
  @spec within(t(), atom()) :: t()
  def within(%__MODULE__{path: [], key: key} = error, outer),
    do: %{error | key: outer, path: [outer, key]}

  def within(%__MODULE__{path: path} = error, outer),
    do: %{error | key: outer, path: [outer | path]}

  @impl true
  def message(%__MODULE__{} = error) do
    hint = if error.hint, do: " (#{error.hint})", else: ""
    "invalid #{place(error)}: expected #{error.expected}, got: #{value(error)}" <> hint
  end

  defp place(%{path: [], key: key}), do: option(key)

  defp place(%{path: path}) do
    [key | outer] = Enum.reverse(path)
    Enum.join([option(key) | Enum.map(outer, &inspect/1)], " in ")
  end

  defp option(nil), do: "options"
  defp option(key), do: "value for #{inspect(key)} option"

  defp value(%{key: :env, value: value}) when not is_atom(value), do: "variables not shown"
  defp value(%{value: value}), do: inspect(value)
end

defimpl Inspect, for: Leash.OptionsError do
  @moduledoc false

  # A report of a supervisor inspects the error. Its message says more than its fields, and shows
  # no value of `:env`.
  def inspect(error, _options), do: "#Leash.OptionsError<" <> Exception.message(error) <> ">"
end
