defmodule Leash.Test.Sink do
  @moduledoc "A Collectable that hands each element, and at its end `:done`, to a function."
  @enforce_keys [:fun]
  defstruct [:fun, done: false]
end

defimpl Collectable, for: Leash.Test.Sink do
  def into(sink) do
    {sink,
     fn
       sink, {:cont, element} ->
         sink.fun.(element)
         sink

       sink, :done ->
         if sink.done, do: sink.fun.(:done)
         sink

       _sink, :halt ->
         :ok
     end}
  end
end
