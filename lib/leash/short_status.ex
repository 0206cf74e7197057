defmodule Leash.ShortStatus do
  # Limits what a process of Leash shows in a crash report and in `:sys.get_status/1` to its
  # identity. The whole state would be a page, and may hold a program's input or its arguments.
  @moduledoc false

  # OTP 25 calls format_status/1. GenServer lists it as a callback only in later versions.
  @impl? {:format_status, 1} in GenServer.behaviour_info(:callbacks)

  @doc """
  Defines `format_status/1`, which keeps these keys of a state that is a map.

  `key: keys` keeps those keys of the map under that key.
  """
  defmacro __using__(keys) do
    quote do
      unquote(if @impl?, do: quote(do: @impl(GenServer)), else: quote(do: @doc(false)))
      def format_status(status), do: Leash.ShortStatus.of(status, unquote(keys))
    end
  end

  @doc "Returns a status with those keys of its state, and only the kind of its last message."
  @spec of(map(), [atom() | {atom(), [atom()]}]) :: map()
  def of(status, keys) do
    status
    |> change(:state, &state(&1, keys))
    |> change(:message, &kind/1)
    |> change(:log, fn _events -> [] end)
  end

  defp change(status, key, fun) when is_map_key(status, key), do: Map.update!(status, key, fun)
  defp change(status, _key, _fun), do: status

  defp state(state, keys) when is_map(state) do
    for key <- keys, into: %{} do
      case key do
        {key, keys} -> {key, state |> Map.get(key) |> state(keys)}
        key -> {key, Map.get(state, key)}
      end
    end
  end

  defp state(state, _keys), do: state

  # The end of a linked process is no secret, and often the reason why this one ended.
  defp kind({:EXIT, _pid, _reason} = message), do: message
  defp kind(message) when is_tuple(message) and tuple_size(message) > 0, do: elem(message, 0)
  defp kind(message) when is_atom(message), do: message
  defp kind(_other), do: :message
end
