defmodule Leash.CommandError do
  @moduledoc """
  The error of a `Leash.stream!/3` whose command did not succeed.

  The public fields are `:program` and `:how`. `:how` is `{:status, 1..255}`, `{:signal, name}`,
  `:timeout` or `{:timeout, :idle}`.
  """

  defexception [:program, :how]

  @type t :: %__MODULE__{program: String.t(), how: Leash.Command.Stream.how()}

  @impl true
  def message(%__MODULE__{program: program, how: {:status, status}}),
    do: "#{inspect(program)} exited with status #{status}"

  def message(%__MODULE__{program: program, how: {:signal, signal}}),
    do: "#{inspect(program)} was ended by #{signal}"

  def message(%__MODULE__{program: program, how: {:timeout, :idle}}),
    do: "#{inspect(program)} wrote nothing in time and was ended"

  def message(%__MODULE__{program: program, how: :timeout}),
    do: "#{inspect(program)} did not end in time and was ended"
end
