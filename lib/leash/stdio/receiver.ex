defmodule Leash.Stdio.Receiver do
  # What gets a Worker's output: the values of `:on_output` and `:on_stderr`.
  @moduledoc false

  alias Leash.{OptionsError, Schema}

  @into "a Collectable that has an effect, such as File.stream!/1 (no process gets the result)"

  @doc "The types of the option. The common ones come first, and need no call."
  @spec types() :: [Schema.type()]
  def types, do: [{:in, [:log]}, :pid, {:fun, 2}, {:custom, __MODULE__, :check, []}]

  @spec expected() :: String.t()
  def expected, do: ":log, a pid, a function of two arguments or {:into, collectable}"

  @spec typespec() :: Macro.t()
  def typespec do
    quote do
      :log
      | pid()
      | (:stdout | :stderr, binary() -> term())
      | {:into, Collectable.t()}
    end
  end

  @doc false
  @spec check(term()) :: {:ok, {:into, Collectable.t()}} | {:error, String.t() | OptionsError.t()}
  def check({:into, collectable}) do
    cond do
      is_list(collectable) or is_bitstring(collectable) or plain_map?(collectable) ->
        Schema.error(:into, @into, collectable)

      Collectable.impl_for(collectable) == nil ->
        Schema.error(:into, "a value that implements Collectable", collectable)

      true ->
        {:ok, {:into, collectable}}
    end
  end

  def check(_other), do: {:error, expected()}

  defp plain_map?(term), do: is_map(term) and not is_struct(term)
end
