defmodule Leash.Test.SlowCollectable do
  @moduledoc """
  Collects nothing, takes its time for each part, and tells a process that it was halted.
  """

  @enforce_keys [:ms]
  defstruct [:ms, :tell]

  @type t :: %__MODULE__{ms: non_neg_integer(), tell: pid() | nil}

  defimpl Collectable do
    def into(%{ms: ms, tell: pid} = this) do
      {this,
       fn
         this, {:cont, _part} ->
           Process.sleep(ms)
           this

         this, :done ->
           this

         _this, :halt ->
           _ = pid && send(pid, :halted)
           :ok
       end}
    end
  end
end
